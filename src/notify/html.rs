//! The same message as plain HTML: inline styles, no images, no scripts, nothing loaded from elsewhere,
//! readable on a light and on a dark screen, and small.

use super::body::{Block, Body, Tone};

/// Where [`super::message::with_notice`] puts the notice of a late delivery. No content can contain it:
/// content is escaped.
pub const NOTICE_SLOT: &str = "<!--notice-->";

const MONO: &str = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px";

/// `text` with everything escaped that means something in HTML, quotes included.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Sentences, escaped, with what stands in backquotes set as code.
fn prose(text: &str) -> String {
    let escaped = escape(text);
    let parts: Vec<&str> = escaped.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escaped;
    }
    let code = format!("<code style=\"{MONO}\">");
    let mut out = String::new();
    for (i, part) in parts.iter().enumerate() {
        match i {
            0 => {}
            i if i % 2 == 1 => out.push_str(&code),
            _ => out.push_str("</code>"),
        }
        out.push_str(part);
    }
    out
}

/// A notice for [`NOTICE_SLOT`].
pub fn notice(text: &str) -> String {
    format!("<p style=\"margin:0 0 16px;padding:8px 12px;border:1px solid #888\">{}</p>", escape(text))
}

/// A document with a notice in its slot; in one without a slot, which a template made, before everything
/// else.
pub fn with_notice(document: &str, text: &str) -> String {
    if document.is_empty() {
        return String::new();
    }
    if document.contains(NOTICE_SLOT) {
        return document.replacen(NOTICE_SLOT, &notice(text), 1);
    }
    let lower = document.to_ascii_lowercase();
    let at = lower.find("<body").and_then(|tag| Some(tag + lower[tag..].find('>')? + 1)).unwrap_or(0);
    format!("{}{}{}", &document[..at], notice(text), &document[at..])
}

/// A document for a text that is nobody's HTML.
pub fn of_text(text: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"></head>\n\
         <body style=\"margin:0;padding:16px\">{NOTICE_SLOT}\n\
         <pre style=\"margin:0;{MONO};white-space:pre-wrap;overflow-wrap:anywhere\">{}</pre></body></html>\n",
        escape(text)
    )
}

/// The message as an HTML document.
pub fn render(body: &Body) -> String {
    // Colours that keep a contrast of at least 4.5 on white and on near-black; all other text has the
    // reader's own colours.
    let accent = match body.tone {
        Tone::Bad => "#d33",
        Tone::Middling => "#a76800",
        Tone::Good => "#268a3c",
        Tone::Plain => "#4a7ba6",
    };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <style>:root{{color-scheme:light dark}}</style></head>\n\
         <body style=\"margin:0;padding:16px;font:15px/1.45 system-ui,sans-serif\">\
         <div style=\"max-width:680px\">{NOTICE_SLOT}\n\
         <p style=\"margin:0 0 16px;padding:4px 0 4px 12px;border-left:5px solid {accent};font-size:18px\">\
         <strong>{}</strong></p>\n",
        escape(&body.headline)
    );
    for section in &body.sections {
        if let Some(title) = &section.title {
            out.push_str(&format!("<h2 style=\"margin:20px 0 6px;font-size:15px\">{}</h2>\n", escape(title)));
        }
        for block in &section.blocks {
            block_html(&mut out, block);
        }
    }
    out.push_str(&format!(
        "<p style=\"margin:24px 0 0;font-size:12px;opacity:.75\">{}</p>\n</div></body></html>\n",
        prose(&body.footer)
    ));
    out
}

fn block_html(out: &mut String, block: &Block) {
    match block {
        Block::Para(text) => out.push_str(&format!("<p style=\"margin:0 0 8px\">{}</p>\n", prose(text))),
        Block::Facts(rows) => {
            out.push_str("<table role=\"presentation\" style=\"border-collapse:collapse;margin:0 0 8px\">\n");
            for (key, value) in rows {
                out.push_str(&format!(
                    "<tr><td style=\"padding:2px 16px 2px 0;vertical-align:top;white-space:nowrap;opacity:.75\">\
                     {}</td><td style=\"padding:2px 0;overflow-wrap:anywhere\">{}</td></tr>\n",
                    escape(key),
                    escape(value)
                ));
            }
            out.push_str("</table>\n");
        }
        Block::List(items) => {
            out.push_str("<ul style=\"margin:0 0 8px;padding-left:20px\">\n");
            for item in items {
                out.push_str(&format!("<li style=\"overflow-wrap:anywhere\">{}</li>\n", escape(item)));
            }
            out.push_str("</ul>\n");
        }
        Block::Lines(items) => out.push_str(&format!(
            "<pre style=\"margin:0 0 8px;padding:8px 10px;border:1px solid #8886;{MONO};\
             white-space:pre-wrap;overflow-wrap:anywhere\">{}</pre>\n",
            items.iter().map(|l| escape(l)).collect::<Vec<_>>().join("\n")
        )),
        Block::Commands(rows) => {
            for (what, command) in rows {
                out.push_str(&format!(
                    "<p style=\"margin:0 0 8px\">{}<br><code style=\"{MONO}\">{}</code></p>\n",
                    escape(what),
                    escape(command)
                ));
            }
        }
    }
}
