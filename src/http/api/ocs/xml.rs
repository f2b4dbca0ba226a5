//! The envelope in XML, with Nextcloud's conventions: members of lists are called `element`, true
//! is `1`, false and null are empty.
//!
//! It writes what [`Envelope`](super::Envelope) gives it, and knows neither requests nor rooms.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use serde_json::{Value, json};

use super::Meta;

pub(super) fn write(meta: &Meta, data: &Value) -> String {
    let Meta { status, statuscode, message } = meta;
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
    let written =
        writer.write_event(Event::Decl(BytesDecl::new("1.0", None, None))).and_then(|()| {
            writer
                .create_element("ocs")
                .write_inner_content(|writer| {
                    writer.create_element("meta").write_inner_content(|writer| {
                        write_element(writer, "status", &json!(status))?;
                        write_element(writer, "statuscode", &json!(statuscode))?;
                        write_element(writer, "message", &json!(message))
                    })?;
                    write_element(writer, "data", data)
                })
                .map(drop)
        });
    written.expect("writing to memory does not fail");
    String::from_utf8(writer.into_inner()).expect("XML made of texts is a text")
}

fn write_members(writer: &mut Writer<Vec<u8>>, value: &Value) -> std::io::Result<()> {
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

fn write_element(writer: &mut Writer<Vec<u8>>, name: &str, value: &Value) -> std::io::Result<()> {
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
        assert_eq!(write(&meta, &data), expected);
    }
}
