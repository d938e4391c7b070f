//! The account itself.

use serde::Deserialize;

use super::client::Rest;
use super::errors::RestError;
use super::form::Fields;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AccountInfo {
    /// `AC…`
    pub sid: String,
    /// As it is called in the console.
    pub friendly_name: String,
    /// `active`, `suspended`, `closed`.
    pub status: String,
    /// `Trial` or `Full`; media streams do not work on a trial account.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What is left of the account's money.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Balance {
    /// A decimal number.
    pub balance: String,
    /// ISO 4217.
    pub currency: String,
}

impl Rest {
    /// The account: whether the key fits, whether it is active, whether it is a trial.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn account(&self) -> Result<AccountInfo, RestError> {
        self.get(".json", &Fields::new()).await
    }

    /// What is left.
    ///
    /// # Errors
    /// [`RestError`]
    pub async fn balance(&self) -> Result<Balance, RestError> {
        self.get("/Balance.json", &Fields::new()).await
    }
}
