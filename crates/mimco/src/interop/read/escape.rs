//! Escaping of text from untrusted files.

/// Escapes a text from a file and shortens it to 80 characters, so that it fits a one-line message.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut escaped: String = text.chars().take(LONGEST + 1).flat_map(char::escape_debug).collect();
    if let Some((end, _)) = escaped.char_indices().nth(LONGEST) {
        escaped.truncate(end);
        escaped.push('…');
    }
    escaped
}
