//! The page around a report: its head, its style, and escaping.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fmt::Write;

/// A page under way. Only [`Page::push`] takes markup; everything else escapes what it is given.
pub struct Page {
    html: String,
}

impl Page {
    /// Begins a page. Its policy forbids the browser to load anything.
    pub fn new(title: &str) -> Page {
        let html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
            title = escape(title),
            style = include_str!("style.css"),
        );
        Page { html }
    }

    /// The finished page.
    pub fn finish(mut self) -> String {
        self.html.push_str("</main>\n</body>\n</html>\n");
        self.html
    }

    /// Markup, already escaped.
    pub fn push(&mut self, markup: &str) {
        self.html.push_str(markup);
    }

    /// The heading of a section.
    pub fn heading(&mut self, text: &str) {
        self.element("h2", text);
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.element("p", text);
    }

    /// Text as it is: a command, a file of settings.
    pub fn code(&mut self, text: &str) {
        self.element("pre", text.trim_end());
    }

    /// Notes that stand out; nothing where there are none.
    pub fn notes(&mut self, notes: &[String]) {
        self.html.extend(notes.iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(note))));
    }

    /// A table of names and values.
    pub fn facts(&mut self, facts: &[(String, String)]) {
        self.html.push_str("<dl class=\"facts\">\n");
        for (name, value) in facts {
            let _ = writeln!(self.html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
        }
        self.html.push_str("</dl>\n");
    }

    /// A PNG picture, inside the page.
    pub fn picture(&mut self, caption: &str, png: &[u8]) {
        let (caption, data) = (escape(caption), BASE64_STANDARD.encode(png));
        let _ = writeln!(
            self.html,
            "<figure class=\"picture\"><img alt=\"{caption}\" src=\"data:image/png;base64,{data}\"><figcaption>{caption}</figcaption></figure>"
        );
    }

    fn element(&mut self, tag: &str, text: &str) {
        let _ = writeln!(self.html, "<{tag}>{}</{tag}>", escape(text));
    }
}

/// Text made safe between tags and within quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
