//! A place in a trace, as W3C Trace Context writes it: <https://www.w3.org/TR/trace-context/>.

use std::fmt;

use super::EventId;

/// Bytes of a `traceparent`: version, trace, span and flags in hexadecimal, with hyphens.
const LENGTH: usize = 55;

/// Flag of a place that somebody records.
const SAMPLED: u8 = 1;

/// A span of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Of the trace, never 0.
    pub trace: u128,
    /// Of the span, never 0.
    pub span: u64,
    /// Whether it is recorded.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent`, also of a version to come, whose first fields are the same.
    pub fn parse(text: &str) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let fields: Vec<&str> = known.split('-').collect();
        let [version, trace, span, flags] = fields.as_slice() else { return None };
        let as_written = [version, trace, span, flags].map(|field| field.len()) == [2, 32, 16, 2]
            && known.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        let unknown_version = *version != "00" && rest.starts_with('-');
        if !as_written || *version == "ff" || !(rest.is_empty() || unknown_version) {
            return None;
        }
        let place = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            sampled: u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0,
        };
        (place.trace != 0 && place.span != 0).then_some(place)
    }

    /// The beginning of an event's own trace. It follows from the event's id, so every process
    /// knows it, and whoever has the id finds the trace. `None` if the id is no UUID.
    pub fn of_event(id: &EventId) -> Option<Self> {
        let uuid = uuid::Uuid::parse_str(id.as_str()).ok()?;
        let (_time, chance) = uuid.as_u64_pair();
        Some(Self { trace: uuid.as_u128(), span: chance, sampled: true })
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
        let place = TraceParent::parse(text).unwrap();
        assert_eq!(place.span, 0x00f0_67aa_0ba9_02b7);
        assert!(place.sampled);
        assert_eq!(place.to_string(), text);
        assert!(!TraceParent::parse(&text.replace("-01", "-02")).unwrap().sampled);
        let later = format!("{}-more", text.replacen("00", "01", 1));
        assert_eq!(TraceParent::parse(&later), Some(place));
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
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
    fn the_trace_of_an_event_has_its_id() {
        let id = EventId::stored("0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b".to_owned());
        let place = TraceParent::of_event(&id).unwrap();
        let expected = "00-0199a1b2c3d47e5f8a9b0c1d2e3f4a5b-8a9b0c1d2e3f4a5b-01";
        assert_eq!(place.to_string(), expected);
        assert_eq!(TraceParent::of_event(&EventId::stored("other".to_owned())), None);
    }
}
