//! A position in a distributed trace, written as in W3C Trace Context:
//! <https://www.w3.org/TR/trace-context/>.

use std::fmt;

use super::EventId;

/// Bytes of a `traceparent`: version, trace, span and flags in hexadecimal, with hyphens.
const LENGTH: usize = 55;

/// Flag of a span that is recorded.
const SAMPLED: u8 = 1;

/// A span of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Never 0.
    pub trace: u128,
    /// Never 0.
    pub span: u64,
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent`. Later versions begin with the same fields.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let fields: Vec<&str> = known.split('-').collect();
        let [version, trace, span, flags] = fields.as_slice() else { return None };
        let well_formed = [version, trace, span, flags].map(|field| field.len()) == [2, 32, 16, 2]
            && known.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        let unknown_version = *version != "00" && rest.starts_with('-');
        if !well_formed || *version == "ff" || !(rest.is_empty() || unknown_version) {
            return None;
        }
        let parent = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0,
        };
        (parent.trace != 0 && parent.span != 0).then_some(parent)
    }

    /// The root span of an event's own trace. It is derived from the event's id, so every process
    /// knows it, and the id is enough to find the trace. `None` if the id is not a UUID.
    pub fn of_event(id: &EventId) -> Option<Self> {
        let uuid = uuid::Uuid::parse_str(id.as_str()).ok()?;
        let (_time, random) = uuid.as_u64_pair();
        Some(Self { trace: uuid.as_u128(), span: random, sampled: true })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_and_written() {
        // The example of the recommendation.
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(text).unwrap();
        assert_eq!(parent.span, 0x00f0_67aa_0ba9_02b7);
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), text);
        assert!(!TraceParent::parse(&text.replace("-01", "-02")).unwrap().sampled);
        let later = format!("{}-more", text.replacen("00", "01", 1));
        assert_eq!(TraceParent::parse(&later), Some(parent));
    }

    #[test]
    fn anything_else_is_not_a_traceparent() {
        for text in [
            "",
            "nonsense",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473ß-0f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_trace_of_an_event_has_the_id_of_the_event() {
        let id = EventId::stored("0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b".to_owned());
        let parent = TraceParent::of_event(&id).unwrap();
        let expected = "00-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b-8a9b0c1d2e3f4a5b-01";
        assert_eq!(parent.to_string(), expected);
        assert_eq!(TraceParent::of_event(&EventId::stored("other".to_owned())), None);
    }
}
