//! Parameters of Talk for a new room that lobbyd does not support.
//!
//! [`rooms`](super::rooms) calls it.

use serde_json::{Map, Value};

use super::ocs::OcsError;

/// Parameters of Talk that have no effect here, with Talk's names of their errors.
const UNSUPPORTED: [(&str, &str); 9] = [
    ("listable", "listable"),
    ("messageExpiration", "message-expiration"),
    ("mentionPermissions", "mention-permissions"),
    ("recordingConsent", "recording-consent"),
    ("sipEnabled", "sip-enabled"),
    ("participants", "invite"),
    ("emoji", "avatar"),
    ("avatarColor", "avatar"),
    ("source", "invite"),
];

/// Refuses what would otherwise be ignored, unless it asks for nothing.
pub(super) fn check(others: &Map<String, Value>) -> Result<(), OcsError> {
    for (name, error) in UNSUPPORTED {
        let asks = others.get(name).is_some_and(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !matches!(text.as_str(), "" | "0" | "false"),
            Value::Array(members) => !members.is_empty(),
            Value::Object(members) => !members.is_empty(),
            Value::Bool(true) => true,
        });
        if asks {
            return Err(OcsError::invalid(error, format!("{name} is not supported")));
        }
    }
    Ok(())
}
