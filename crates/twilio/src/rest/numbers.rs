//! Numbers: searched, bought, wired, released.

use serde::Deserialize;

use super::client::{Again, Listed, Page, Rest, is_sid};
use super::errors::RestError;
use super::form::Fields;

/// What a number can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Calls.
    #[serde(alias = "Voice")]
    pub voice: bool,
    /// Messages.
    #[serde(alias = "SMS")]
    pub sms: bool,
    /// Messages with pictures.
    #[serde(alias = "MMS")]
    pub mms: bool,
    /// Fax.
    #[serde(alias = "Fax")]
    pub fax: bool,
}

/// Kinds of numbers for sale; not every country has each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Twilio's own names.
pub enum NumberKind {
    Local,
    TollFree,
    Mobile,
    National,
    Voip,
    SharedCost,
    MachineToMachine,
}

/// What is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberSearch {
    /// US and Canada.
    pub area_code: Option<u32>,
    /// 2 to 16 characters: digits, letters of the keypad, `*` for any digit.
    pub contains: Option<String>,
    /// Of the number.
    pub locality: Option<String>,
    /// State or province.
    pub region: Option<String>,
    /// Only those that can send messages, too.
    pub sms: Option<bool>,
    /// Only those that need no papers with an address.
    pub without_address: Option<bool>,
    /// At most 1000; default 50.
    pub page_size: Option<u32>,
}

/// A number for sale.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AvailableNumber {
    /// E.164.
    pub phone_number: String,
    /// As people write it.
    #[serde(default)]
    pub friendly_name: Option<String>,
    /// Where it belongs.
    #[serde(default)]
    pub locality: Option<String>,
    /// State or province.
    #[serde(default)]
    pub region: Option<String>,
    /// ISO country code.
    #[serde(default)]
    pub iso_country: Option<String>,
    /// `none`, `any`, `local`, `foreign`: papers that are needed.
    #[serde(default)]
    pub address_requirements: Option<String>,
    /// New to Twilio.
    #[serde(default)]
    pub beta: bool,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// Whom Twilio asks about calls and messages of a number. `None` leaves a setting as it is, an empty text clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberSettings {
    /// As it is called in the console, at most 64 characters.
    pub friendly_name: Option<String>,
    /// Asked by POST when it rings.
    pub voice_url: Option<String>,
    /// Asked when that fails.
    pub voice_fallback_url: Option<String>,
    /// Told when a call is over.
    pub status_callback: Option<String>,
    /// Asked by POST when a message comes.
    pub sms_url: Option<String>,
}

impl NumberSettings {
    fn fields(&self, fields: Fields) -> Result<Fields, RestError> {
        if self.friendly_name.as_ref().is_some_and(|it| it.chars().count() > 64) {
            return Err(RestError::Request { field: "FriendlyName", expected: "at most 64 characters" });
        }
        let post = |url: &Option<String>| url.as_ref().filter(|it| !it.is_empty()).map(|_| "POST");
        Ok(fields
            .with("FriendlyName", self.friendly_name.as_ref())
            .with("VoiceUrl", self.voice_url.as_ref())
            .with("VoiceMethod", post(&self.voice_url))
            .with("VoiceFallbackUrl", self.voice_fallback_url.as_ref())
            .with("VoiceFallbackMethod", post(&self.voice_fallback_url))
            .with("StatusCallback", self.status_callback.as_ref())
            .with("StatusCallbackMethod", post(&self.status_callback))
            .with("SmsUrl", self.sms_url.as_ref())
            .with("SmsMethod", post(&self.sms_url)))
    }
}

/// A number to be bought: it costs money at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberToBuy {
    /// E.164, from a search; somebody else may be faster (21422).
    pub phone_number: String,
    /// Whom Twilio asks.
    pub settings: NumberSettings,
    /// Where a country wants one.
    pub address_sid: Option<String>,
    /// Where a country wants papers.
    pub bundle_sid: Option<String>,
}

/// A number of the account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Number {
    /// `PN…`
    pub sid: String,
    /// E.164.
    pub phone_number: String,
    /// As it is called in the console.
    #[serde(default, deserialize_with = "super::text")]
    pub friendly_name: Option<String>,
    /// Asked when it rings.
    #[serde(default, deserialize_with = "super::text")]
    pub voice_url: Option<String>,
    /// `POST` or `GET`.
    #[serde(default, deserialize_with = "super::text")]
    pub voice_method: Option<String>,
    /// Asked when that fails.
    #[serde(default, deserialize_with = "super::text")]
    pub voice_fallback_url: Option<String>,
    /// Told when a call is over.
    #[serde(default, deserialize_with = "super::text")]
    pub status_callback: Option<String>,
    /// Overrides the addresses above.
    #[serde(default, deserialize_with = "super::text")]
    pub voice_application_sid: Option<String>,
    /// Overrides everything about calls.
    #[serde(default, deserialize_with = "super::text")]
    pub trunk_sid: Option<String>,
    /// Asked when a message comes.
    #[serde(default, deserialize_with = "super::text")]
    pub sms_url: Option<String>,
    /// What it can do.
    #[serde(default)]
    pub capabilities: Capabilities,
}

impl Listed for Number {
    const NAME: &'static str = "incoming_phone_numbers";
}

impl Listed for AvailableNumber {
    const NAME: &'static str = "available_phone_numbers";
}

fn path(sid: &str) -> Result<String, RestError> {
    if is_sid(sid, "PN") {
        Ok(format!("/IncomingPhoneNumbers/{sid}.json"))
    } else {
        Err(RestError::Request { field: "number SID", expected: "PN and 32 hexadecimal digits" })
    }
}

impl Rest {
    /// Numbers for sale in a country; 404 where Twilio sells none of that kind.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn available_numbers(
        &self,
        country: &str,
        kind: NumberKind,
        search: &NumberSearch,
    ) -> Result<Vec<AvailableNumber>, RestError> {
        if country.len() != 2 || !country.bytes().all(|it| it.is_ascii_uppercase()) {
            return Err(RestError::Request { field: "country", expected: "two capital letters, such as RO" });
        }
        if search.contains.as_ref().is_some_and(|it| !(2..=16).contains(&it.chars().count())) {
            return Err(RestError::Request { field: "Contains", expected: "2 to 16 characters" });
        }
        let query = Fields::new()
            .with("AreaCode", search.area_code)
            .with("Contains", search.contains.as_ref())
            .with("InLocality", search.locality.as_ref())
            .with("InRegion", search.region.as_ref())
            .with("VoiceEnabled", Some(true))
            .with("SmsEnabled", search.sms)
            .with("ExcludeAllAddressRequired", search.without_address)
            .with("PageSize", search.page_size);
        let page = self.page(&format!("/AvailablePhoneNumbers/{country}/{kind:?}.json"), &query).await?;
        Ok(page.items)
    }

    /// Buys a number.
    ///
    /// # Errors
    /// [`RestError`]; after [`RestError::Unclear`] look with [`numbers`](Self::numbers) before you try again.
    pub async fn buy_number(&self, it: &NumberToBuy) -> Result<Number, RestError> {
        let fields = it.settings.fields(Fields::new().with("PhoneNumber", Some(&it.phone_number)))?;
        let fields = fields.with("AddressSid", it.address_sid.as_ref()).with("BundleSid", it.bundle_sid.as_ref());
        self.post("/IncomingPhoneNumbers.json", &fields, Again::Never).await
    }

    /// Wires a number.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn update_number(&self, sid: &str, settings: &NumberSettings) -> Result<Number, RestError> {
        self.post(&path(sid)?, &settings.fields(Fields::new())?, Again::Safe).await
    }

    /// A number.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn number(&self, sid: &str) -> Result<Number, RestError> {
        self.get(&path(sid)?, &Fields::new()).await
    }

    /// The account's numbers; `like` is part of one, with `*` for any digit.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn numbers(&self, like: Option<&str>) -> Result<Page<Number>, RestError> {
        self.page("/IncomingPhoneNumbers.json", &Fields::new().with("PhoneNumber", like)).await
    }

    /// The numbers behind a page.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn next_numbers(&self, page: &Page<Number>) -> Result<Option<Page<Number>>, RestError> {
        match &page.next {
            Some(next) => self.page_at(next).await.map(Some),
            None => Ok(None),
        }
    }

    /// Gives a number back: it is gone.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn release_number(&self, sid: &str) -> Result<(), RestError> {
        self.delete(&path(sid)?).await
    }
}
