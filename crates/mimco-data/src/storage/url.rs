//! URLs of object stores and web servers: `s3://`, `gs://`, `az://`, `http(s)://`.

use std::path::Path;

/// Returns whether a path is a URL: `SCHEME://`.
pub(crate) fn is_url(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

/// Returns whether a scheme is one of Azure's. Their URLs may contain the container where others
/// have the user: `abfss://CONTAINER@ACCOUNT/FOLDER`.
pub(crate) fn names_container(scheme: &str) -> bool {
    ["az", "azure", "adl", "abfs", "abfss"].iter().any(|name| scheme.eq_ignore_ascii_case(name))
}

/// Returns a URL for messages, in one line: without user and password, and without query and
/// fragment, which may contain a signature.
pub(crate) fn redacted(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    // URL parsers accept more than two slashes, and backslashes, in web addresses.
    let web = scheme.to_ascii_lowercase().starts_with("http");
    let rest = if web { rest.trim_start_matches(['/', '\\']) } else { rest };
    let (host, path) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
    let host = match host.rsplit_once('@') {
        Some((user, host)) if names_container(scheme) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        Some((_, host)) => host.to_string(),
        // A password with a slash, `?` or `#` ends the host early; it then looks like a port.
        None if host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !web || !(port.ends_with(']') || port.bytes().all(|b| b.is_ascii_digit()))) =>
        {
            return format!("{scheme}://...");
        }
        None => host.to_string(),
    };
    format!("{scheme}://{host}{path}").escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_recognized_and_shown_without_its_secrets() {
        for (path, remote) in
            [("s3://b/x", true), ("https://h", true), ("a/b", false), ("/s3:/x", false), ("://x", false), ("a b://x", false), ("", false)]
        {
            assert_eq!(is_url(Path::new(path)), remote, "{path}");
        }
        let urls = [
            ("s3://bucket/a b/ü@1.tar", "s3://bucket/a b/ü@1.tar"),
            ("https://me:hush@host:80/x", "https://host:80/x"),
            ("https://hush@host/x@y", "https://host/x@y"),
            ("https:///me:hush@host/x", "https://host/x"),
            ("HTTP://\\me:hush@host/x", "HTTP://host/x"),
            ("https://host/x?signature=hush", "https://host/x"),
            ("https://me:hu/sh@host/x", "https://..."),
            ("s3://KEY:12/hush@bucket/x", "s3://..."),
            ("http://[::1]:80/x", "http://[::1]:80/x"),
            ("http://[::1]/x", "http://[::1]/x"),
            ("abfss://images:hush@account/x", "abfss://images@account/x"),
            ("file:///a@b/c", "file:///a@b/c"),
            ("gs://b/a\nb", "gs://b/a\\nb"),
        ];
        for (url, expected) in urls {
            assert_eq!(redacted(url), expected);
        }
    }
}
