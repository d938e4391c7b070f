//! What Twilio's REST API refuses, in plain words, with what to do.

use std::fmt;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// Twilio said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Twilio could not be asked; nothing was done there.
    #[error("Twilio's API cannot be reached: {0}")]
    Unreachable(String),
    /// The request went out and no answer came. Whether it was carried out is unknown: ask before it is made again.
    #[error("Twilio's API did not answer ({0}): whether the request was carried out is unknown, so look before you repeat it")]
    Unclear(String),
    /// The answer is not what the API documents.
    #[error("Twilio's answer is not understood: {0}")]
    Answer(String),
    /// The request cannot be right.
    #[error("{field}: expected {expected}")]
    Request {
        /// Of the request.
        field: &'static str,
        /// What Twilio takes.
        expected: &'static str,
    },
}

impl RestError {
    /// Twilio's error code.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Refused(it) => it.code,
            _ => None,
        }
    }

    /// Whether there is no such thing: a call that has ended and a number that was released among them.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(it) if it.status == 404)
    }

    /// Whether a call was to be changed that is over, or not answered yet: whoever wanted it to end has what they want.
    pub fn is_call_over(&self) -> bool {
        self.is_not_found() || self.code() == Some(21_220)
    }

    /// Whether the same request may succeed a little later, and it is certain that nothing was done.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused(it) => it.status == 429,
            Self::Unreachable(_) => true,
            _ => false,
        }
    }
}

/// Twilio's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP.
    pub status: u16,
    /// Twilio's error code, if it was Twilio's application that answered.
    pub code: Option<u32>,
    /// Twilio's words, which may hold a telephone number.
    pub message: String,
    /// `RQ…`: what Twilio's support asks for.
    pub request: Option<String>,
    /// How long to wait, if Twilio said so, in seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// What it means, and what to do; known for the codes that telephone calls, numbers and messages meet.
    pub fn explained(&self) -> Option<(&'static str, &'static str)> {
        self.code.and_then(explained).or(match self.status {
            401 => Some(WRONG_KEY),
            429 => Some(TOO_MANY),
            _ => None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.explained() {
            Some((meaning, fix)) => write!(f, "Twilio refuses: {meaning}. {fix}")?,
            None => write!(f, "Twilio refuses: {}", without_numbers(&self.message))?,
        }
        match self.code {
            Some(code) => write!(f, " (error {code}, HTTP {}", self.status)?,
            None => write!(f, " (HTTP {}", self.status)?,
        }
        match &self.request {
            Some(request) => write!(f, ", request {request})"),
            None => f.write_str(")"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Messages quote numbers, which are not for logs.
fn without_numbers(text: &str) -> String {
    let mut shown = String::new();
    let mut digits = 0;
    for it in text.chars().take(300) {
        digits = if it.is_ascii_digit() { digits + 1 } else { 0 };
        match digits {
            0..=5 => shown.push(it),
            6 => shown.push('…'),
            _ => (),
        }
    }
    shown
}

type Explanation = (&'static str, &'static str);

const WRONG_KEY: Explanation =
    ("account SID and token, or API key and secret, do not belong together", "Copy both from the same place of the console");
const TOO_MANY: Explanation = ("too many requests at a time", "It is tried again; if it stays so, ask for a higher limit");

/// By code, in Twilio's order.
const EXPLANATIONS: &[(&[u32], Explanation)] = &[
    (&[10_001, 20_005], ("the account is not active", "Look at the account's state in the console: suspended, or unpaid")),
    (&[10_004], ("too many calls at a time for this account", "Finish its business profile in the console, or ask for more")),
    (
        &[20_001, 20_422],
        ("a parameter is unknown or wrong", "This is an error of this program: please report it with the request id"),
    ),
    (&[20_003], WRONG_KEY),
    (
        &[20_006, 20_403],
        ("this key may not do that", "Use the account's main key: test keys can only make calls, messages and numbers"),
    ),
    (&[20_404], ("there is no such thing: it was deleted, has ended, or is not sold in that country", "Look it up again")),
    (&[20_409], ("somebody else is changing the same thing", "Try again")),
    (&[20_429], TOO_MANY),
    (&[20_500, 20_503], ("Twilio has a fault", "Try again; see the provider's status page if it stays so")),
    (&[21_205], ("the address of the document is not usable", "Set PUBLIC_URL to an https address that Twilio can reach")),
    (&[21_210], ("the number shown to who is called is not yours", "Buy it, or verify it as caller id in the console")),
    (
        &[21_201, 21_211, 21_214, 21_217],
        ("the number to be called is missing, wrong, or cannot be reached", "Give it in E.164, such as +40312345678"),
    ),
    (&[21_212, 21_213], ("the number to call from is missing or wrong", "Give one of the account's numbers in E.164")),
    (&[21_215], ("calls to that country are not permitted", "Permit them in the console: Voice, Settings, Geo permissions")),
    (&[21_216], ("that number is blocked by Twilio", "It cannot be called from this account")),
    (
        &[21_219, 21_608],
        ("a trial account reaches verified numbers only", "Verify the number in the console, or upgrade the account"),
    ),
    (&[21_220], ("the call is over, or not answered yet", "There is nothing left to change")),
    (&[21_401, 21_421], ("that is no telephone number", "Give it in E.164, such as +40312345678")),
    (&[21_404], ("a trial account cannot buy numbers", "Upgrade the account")),
    (
        &[21_408],
        ("messages to that country are not permitted", "Permit them in the console: Messaging, Settings, Geo permissions"),
    ),
    (&[21_422], ("the number is no longer for sale: somebody else was faster", "Search again and choose another one")),
    (&[21_451, 21_452], ("there are no numbers with that area code", "Search with another one")),
    (&[21_601, 21_606], ("that number cannot send messages", "Choose one with the SMS capability")),
    (&[21_602, 21_617], ("a message has 1 to 1600 characters", "Shorten it")),
    (&[21_603, 21_604], ("a message needs a sender and a recipient", "Give both in E.164")),
    (&[21_610], ("the recipient has opted out of messages from this number", "They can opt in by sending START")),
    (&[21_611], ("four hours of messages are waiting to be sent from this number", "Wait, or use more numbers")),
    (&[21_612, 21_614], ("that number cannot receive messages", "It is no mobile, or its network takes none")),
    (&[21_615, 21_631], ("a number of that country needs an address", "Add an address in the console and name it (AddressSid)")),
    (
        &[21_649, 21_651],
        ("a number of that country needs papers", "Make a regulatory bundle in the console and name it (BundleSid)"),
    ),
];

fn explained(code: u32) -> Option<Explanation> {
    EXPLANATIONS.iter().find(|it| it.0.contains(&code)).map(|it| it.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_fix_and_no_number() {
        let refusal = |code, status| Refusal {
            status,
            code,
            message: "The 'To' number +15550100003 is not valid".into(),
            request: Some("RQ1".into()),
            retry_after: None,
        };
        let said = refusal(Some(21_215), 400).to_string();
        assert!(said.contains("Geo permissions") && said.ends_with("(error 21215, HTTP 400, request RQ1)"), "{said}");
        let said = refusal(Some(99_999), 400).to_string();
        assert!(said.contains("is not valid") && !said.contains("0100003"), "{said}");
        assert!(refusal(None, 401).to_string().contains("do not belong together"));
        let codes: Vec<u32> = EXPLANATIONS.iter().flat_map(|it| it.0.iter().copied()).collect();
        assert_eq!(codes.len(), codes.iter().collect::<std::collections::BTreeSet<_>>().len(), "each code once");
    }
}
