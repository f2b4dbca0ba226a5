//! The envelope in XML, with Nextcloud's conventions: members of lists are called `element`, true
//! is `1`, false and null are empty.
//!
//! It writes what [`Envelope`](super::Envelope) gives it, and knows neither requests nor rooms.

use std::io::{Result, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use serde_json::{Value, json};

use super::Meta;

/// Writes an envelope with data that is one value.
pub(super) fn write(target: &mut impl Write, meta: &Meta, data: &Value) -> Result<()> {
    write_envelope(target, meta, |writer| write_element(writer, "data", data))
}

/// Writes an envelope with a list, whose elements are made while it is written.
pub(super) fn write_list(
    target: &mut impl Write,
    meta: &Meta,
    elements: impl Iterator<Item = Value>,
) -> Result<()> {
    let mut elements = elements.peekable();
    write_envelope(target, meta, |writer| {
        let element = writer.create_element("data");
        if elements.peek().is_none() {
            return element.write_empty().map(drop);
        }
        let mut all = elements;
        let write = |writer: &mut Writer<_>| {
            all.try_for_each(|each| write_element(writer, "element", &each))
        };
        element.write_inner_content(write).map(drop)
    })
}

fn write_envelope<W: Write>(
    target: W,
    meta: &Meta,
    write_data: impl FnOnce(&mut Writer<W>) -> Result<()>,
) -> Result<()> {
    let Meta { status, statuscode, message } = meta;
    let mut writer = Writer::new_with_indent(target, b' ', 1);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", None, None)))?;
    let write = |writer: &mut Writer<W>| {
        writer.create_element("meta").write_inner_content(|writer| {
            write_element(writer, "status", &json!(status))?;
            write_element(writer, "statuscode", &json!(statuscode))?;
            write_element(writer, "message", &json!(message))
        })?;
        write_data(writer)
    };
    writer.create_element("ocs").write_inner_content(write).map(drop)
}

fn write_members<W: Write>(writer: &mut Writer<W>, value: &Value) -> Result<()> {
    match value {
        Value::Object(members) => {
            members.iter().try_for_each(|(name, member)| write_element(writer, name, member))
        }
        Value::Array(members) => {
            members.iter().try_for_each(|member| write_element(writer, "element", member))
        }
        Value::Null | Value::Bool(false) => Ok(()),
        Value::Bool(true) => writer.write_event(Event::Text(BytesText::new("1"))),
        Value::Number(number) => {
            writer.write_event(Event::Text(BytesText::new(&number.to_string())))
        }
        Value::String(text) => writer.write_event(Event::Text(BytesText::new(&printable(text)))),
    }
}

fn write_element<W: Write>(writer: &mut Writer<W>, name: &str, value: &Value) -> Result<()> {
    let empty = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(members) => members.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    };
    let element = writer.create_element(name);
    if empty {
        element.write_empty()?;
    } else {
        element.write_inner_content(|writer| write_members(writer, value))?;
    }
    Ok(())
}

/// XML 1.0 cannot represent most control characters.
fn printable(text: &str) -> String {
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r') || c >= ' ' && c != '\u{fffe}' && c != '\u{ffff}';
    text.chars().map(|c| if allowed(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn xml_follows_nextclouds_conventions() {
        let data = json!({
            "list": [1, {"a": true}], "none": null, "no": false, "empty": [], "text": "<&\u{1}>",
        });
        let meta = Meta::new(StatusCode::OK, true, "OK".to_owned());
        let expected = "\
<?xml version=\"1.0\"?>
<ocs>
 <meta>
  <status>ok</status>
  <statuscode>100</statuscode>
  <message>OK</message>
 </meta>
 <data>
  <empty/>
  <list>
   <element>1</element>
   <element>
    <a>1</a>
   </element>
  </list>
  <no/>
  <none/>
  <text>&lt;&amp;\u{fffd}&gt;</text>
 </data>
</ocs>";
        let mut written = Vec::new();
        write(&mut written, &meta, &data).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn a_list_is_written_as_one_value_is() {
        for list in [json!([]), json!([{"a": 1}, [], "x"])] {
            let meta = Meta::new(StatusCode::OK, false, "OK".to_owned());
            let (mut one, mut several) = (Vec::new(), Vec::new());
            write(&mut one, &meta, &list).unwrap();
            let elements = list.as_array().unwrap().iter().cloned();
            write_list(&mut several, &meta, elements).unwrap();
            assert_eq!(String::from_utf8(several), String::from_utf8(one));
        }
    }
}
