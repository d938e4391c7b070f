//! What the tests of this crate have in common.

use store::Fact;

/// The first fact of an incoming call.
pub(crate) fn ringing(call_sid: &str, account_sid: &str, from: Option<&str>) -> Fact {
    Fact::Ringing {
        call_sid: call_sid.into(),
        account_sid: account_sid.into(),
        from: from.map(Into::into),
        to: None,
        direction: "inbound".into(),
        api_version: None,
        forwarded_from: None,
        caller_name: None,
        assistant: "a".into(),
        language: "en".into(),
        node: "n".into(),
    }
}
