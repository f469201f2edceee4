//! HTML page of a report: head, style and escaping.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fmt::Write;

/// HTML page under construction. Only [`Page::push`] takes markup; all other methods escape their
/// text.
pub struct Page {
    html: String,
}

impl Page {
    /// Starts a page. Its content security policy forbids the browser to load anything.
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

    /// Returns the finished page.
    pub fn finish(mut self) -> String {
        self.html.push_str("</main>\n</body>\n</html>\n");
        self.html
    }

    /// Appends markup that is escaped already.
    pub fn push(&mut self, markup: &str) {
        self.html.push_str(markup);
    }

    /// Appends the heading of a section.
    pub fn heading(&mut self, text: &str) {
        self.element("h2", text);
    }

    /// Appends a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.element("p", text);
    }

    /// Appends preformatted text, such as a command or settings.
    pub fn code(&mut self, text: &str) {
        self.element("pre", text.trim_end());
    }

    /// Appends highlighted notes.
    pub fn notes(&mut self, notes: &[String]) {
        self.html.extend(notes.iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(note))));
    }

    /// Appends a table of names and values.
    pub fn facts(&mut self, facts: &[(String, String)]) {
        self.html.push_str("<dl class=\"facts\">\n");
        for (name, value) in facts {
            let _ = writeln!(self.html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
        }
        self.html.push_str("</dl>\n");
    }

    /// Appends a PNG picture, embedded in the page.
    pub fn picture(&mut self, caption: &str, png: &[u8]) {
        let (caption, data) = (escape(caption), BASE64_STANDARD.encode(png));
        let _ = writeln!(
            self.html,
            "<figure class=\"picture\"><img alt=\"{caption}\" src=\"data:image/png;base64,{data}\"><figcaption>{caption}</figcaption></figure>"
        );
    }

    /// Appends an element with escaped text.
    fn element(&mut self, tag: &str, text: &str) {
        let _ = writeln!(self.html, "<{tag}>{}</{tag}>", escape(text));
    }
}

/// Escapes text for use between tags and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
