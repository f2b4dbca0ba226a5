//! The parts of the manual that the command line does not contain: lobbyd.toml(5), and the sections of
//! lobbyd(1) on environment, files and signals. Only `generate` uses them.

use lobbyd::config::DEFAULTS;

pub(super) const SOURCE: &str = concat!("lobbyd ", env!("CARGO_PKG_VERSION"));

/// Sections of lobbyd(1), in the language of man pages.
pub(super) const ENVIRONMENT: &str = r#".SH "EXIT STATUS"
.TP
0
Success. Also the end of a program that was stopped by SIGTERM, or by one SIGINT.
.TP
1
Failure; the last line on standard error says why. A loop that ended unexpectedly ends the program so,
and its supervisor starts it again.
.TP
2
Invalid arguments.
.TP
78
Invalid configuration; the line names the key. Another start would fail in the same way.
.TP
130
Stopped by a second SIGINT, without waiting for work in flight.
.SH SIGNALS
.TP
SIGTERM, SIGINT
Stop: no more events are taken, work in flight is finished, and the outbox is flushed, for up to
\fBshutdown.grace\fR. A second SIGINT ends the program at once; a second SIGTERM changes nothing.
.TP
SIGHUP
Reload the configuration, as
.BR lobbyd.toml (5)
describes. In a terminal it ends the program.
.SH ENVIRONMENT
.TP
\fBLOBBYD__\fISECTION\fB__\fIKEY\fR
A key of the configuration, for example \fBLOBBYD__DATABASE__URL\fR. It overrides the files.
.TP
\fBCREDENTIALS_DIRECTORY\fR
Set by systemd. Files in it named database\-url, events\-url, sip\-secret and user\-header\-secret are
used instead of the keys in the configuration.
.TP
\fBNOTIFY_SOCKET\fR, \fBWATCHDOG_USEC\fR
Set by systemd. lobbyd reports readiness, its status, reloads and progress.
.TP
\fBSSL_CERT_FILE\fR
Certificate authorities for TLS to the broker, instead of those of the system.
.TP
\fBOTEL_EXPORTER_OTLP_HEADERS\fR
Headers for the collector of traces.
.SH FILES
.TP
/etc/lobbyd/lobbyd.toml
The configuration, unless \fB\-\-config\fR names another file. It need not exist.
.TP
/etc/credstore/lobbyd.database\-url, /etc/credstore/lobbyd.events\-url, …
Credentials of the services. Commands that root runs use them too, and say so.
.TP
/var/lib/lobbyd/lobbyd.db
The SQLite file of the services, if no other database is configured.
.TP
/usr/share/doc/lobbyd/
What an operator needs: a runbook, alert rules, roles for databases and broker.
.SH "SEE ALSO"
.BR lobbyd.toml (5),
.BR lobbyd\-worker (1),
.BR lobbyd\-api (1),
.BR lobbyd\-run (1),
.BR lobbyd\-config\-check (1),
.BR lobbyd\-rooms (1),
.BR lobbyd\-status (1),
.BR lobbyd\-lobby (1),
.BR lobbyd\-dead\-letters (1),
.BR systemd.exec (5)
"#;

/// The page lobbyd.toml(5), from the comments of the embedded defaults.
pub(super) fn configuration() -> String {
    let mut page = vec![format!(
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH lobbyd.toml 5 \"\" \"{SOURCE}\"\n.SH NAME\n\
         lobbyd.toml \\- configuration of lobbyd\n.SH SYNOPSIS\n/etc/lobbyd/lobbyd.toml\n\
         .SH DESCRIPTION\n"
    )];
    let mut comment: Vec<&str> = Vec::new();
    for line in DEFAULTS.lines() {
        if line.starts_with('[') {
            page.push(paragraphs(&comment));
            page.push(format!(".SH \"{}\"\n", escaped(line)));
            comment.clear();
        } else if let Some(key) = line.strip_prefix("# ").filter(|text| is_key(text)) {
            page.push(entry(key, "unset; for example ", &comment));
            comment.clear();
        } else if is_key(line) {
            page.push(entry(line, "", &comment));
            comment.clear();
        } else if line.starts_with('#') {
            comment.push(line.trim_start_matches('#'));
        } else {
            page.push(paragraphs(&comment));
            comment.clear();
        }
    }
    page.concat() + ".SH \"SEE ALSO\"\n.BR lobbyd (1),\n.BR lobbyd\\-config\\-check (1)\n"
}

/// Whether a line assigns a value.
fn is_key(line: &str) -> bool {
    line.split_once(" = ").is_some_and(|(key, _value)| {
        !key.is_empty() && key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
    })
}

fn entry(line: &str, prefix: &str, comment: &[&str]) -> String {
    let (key, value) = line.split_once(" = ").unwrap_or((line, ""));
    format!(".TP\n\\fB{}\\fR ({prefix}{})\n{}", escaped(key), escaped(value), indented(comment))
}

fn paragraphs(comment: &[&str]) -> String {
    if comment.is_empty() { String::new() } else { format!(".PP\n{}", indented(comment)) }
}

/// Lines of a comment; those of a list keep their lines.
fn indented(comment: &[&str]) -> String {
    let mut text = String::new();
    let mut is_list = false;
    for line in comment {
        let was_list = std::mem::replace(&mut is_list, line.starts_with("   "));
        if is_list || was_list {
            text += ".br\n";
        }
        text += &escaped(line.trim());
        text += if line.trim().is_empty() { ".PP\n" } else { "\n" };
    }
    text
}

/// Text for man pages: no character of it is a command.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}
