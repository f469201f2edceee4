//! Object stores and web servers, accessed through the `object_store` crate. Calls block, and any
//! thread may make them; the requests run on threads of their own.

use crate::error::DataError;
use crate::storage::url::{names_container, redacted};
use futures_util::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ClientOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreScheme, RetryConfig};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use url::{Position, Url};

/// Time limit for retrying a failed request. Tests do not wait that long for an absent server.
const RETRIES: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(30) };

/// Time limit for establishing a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Time limit between two parts of a response.
const STALL: Duration = Duration::from_secs(20);

/// Time limit for a request with its whole response.
const REQUEST: Duration = Duration::from_secs(300);

const SHORTER: &str = "is shorter than it was; list the files again";

/// Limit of the bytes of one read.
const MAX_READ: u64 = 1 << 30;

/// Bytes allocated before a response arrives.
const INITIAL_CAPACITY: u64 = 4 << 20;

/// Limit of the number of objects of one listing.
const MAX_LISTED: usize = 50_000_000;

/// Runs the requests; two threads handle more than a fast network delivers.
static RUNTIME: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
    // Fails harmlessly if the program has already installed a provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Builder::new_multi_thread().worker_threads(2).thread_name("mimco-remote").enable_all().build().map_err(|e| e.to_string())
});

/// A folder of an object store, or one object. Clones share the connections.
#[derive(Clone)]
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    runtime: &'static Runtime,
    /// The URL's path below the bucket or the host.
    prefix: ObjectPath,
    /// The URL without secrets, for messages.
    url: String,
    /// Advice for errors of access.
    access: &'static str,
    /// Whether this is a web server.
    web: bool,
}

/// The cause of a failed request.
enum Failure {
    Store(Error),
    Other(ErrorKind, &'static str),
}

const OVERDUE: Failure = Failure::Other(ErrorKind::TimedOut, "does not respond in time; try again later");
const TOO_LARGE: Failure = Failure::Other(ErrorKind::InvalidInput, "is larger than 1 GiB, the limit of one read; split it into shards");

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Store(error)
    }
}

impl Store {
    /// Opens the store and folder of a URL. Credentials, region and endpoint come from the
    /// environment: `AWS_...`, `GOOGLE_...` and `AZURE_...` as `object_store` names them. Sends no
    /// request yet.
    ///
    /// # Errors
    /// Fails if the URL's scheme is unknown, if it has a password, a query or a fragment, and if
    /// the settings are invalid.
    pub(crate) fn open(url: &str) -> Result<Store, DataError> {
        let settings = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Store::with_settings(url, &settings.collect::<Vec<_>>())
    }

    /// Opens a store as [`Store::open`] does, with these names and values as the environment.
    ///
    /// # Errors
    /// Fails as [`Store::open`] does.
    pub(crate) fn with_settings(text: &str, settings: &[(String, String)]) -> Result<Store, DataError> {
        let refused = |what: String| DataError::path(redacted(text), what);
        let url = Url::parse(text).map_err(|e| refused(format!("is not a valid URL ({e}); write it as s3://BUCKET/FOLDER")))?;
        let user = !url.username().is_empty() && !names_container(url.scheme());
        if user || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(refused(
                "has a user, a password, `?` or `#`; credentials come from the environment, and in a name `?` is %3F, `#` %23".into(),
            ));
        }
        let unknown = || refused(format!("{}:// is not supported; give s3://, gs://, az:// or http(s)://", url.scheme()));
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| unknown())?;
        let runtime = RUNTIME.as_ref().map_err(|e| refused(format!("cannot start threads for the network: {e}")))?;
        let (objects, access) =
            connect(&scheme, &url, settings).map_err(|e| refused(format!("cannot be opened: {}", reason(&e))))?.ok_or_else(unknown)?;
        let web = scheme == ObjectStoreScheme::Http;
        Ok(Store { objects, runtime, prefix, url: redacted(text).trim_end_matches('/').to_string(), access, web })
    }

    /// Lists all objects below the folder: their names there, with `/`, and sizes in bytes, in the
    /// bytewise order of the names.
    ///
    /// # Errors
    /// Fails if the store does not exist, denies access, or has no listings, as most web servers
    /// do.
    pub(crate) fn list(&self) -> Result<Vec<(String, u64)>, DataError> {
        let store = self.clone();
        let listed = self.wait("", async move {
            let mut objects = store.objects.list(Some(&store.prefix));
            let mut found = Vec::new();
            // The time limit is for each object: a listing may be long, but must make progress.
            while let Some(object) = tokio::time::timeout(REQUEST, objects.next()).await.map_err(|_| OVERDUE)? {
                let object = object?;
                if found.len() == MAX_LISTED {
                    return Err(Failure::Other(ErrorKind::InvalidInput, "contains too many objects; give a folder with fewer"));
                }
                found.extend(store.below(object.location.as_ref()).map(|key| (key.to_string(), object.size)));
            }
            found.sort_unstable();
            Ok(found)
        });
        listed.map_err(|e| {
            let text = e.to_string();
            let what = text.strip_prefix(&format!("{}: ", self.url)).unwrap_or(&text);
            let responded = !matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset);
            let hint =
                if self.web && responded { "; few web servers list their files: name the files, as NAME-{000..127}.tar" } else { "" };
            DataError::path(&self.url, format!("{what}{hint}"))
        })
    }

    /// Returns an object's size in bytes, by one request. `key` is its name below the folder; it is
    /// empty if the URL itself names the object.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `InvalidInput` and `Unsupported` are permanent. `TimedOut`,
    /// `ConnectionRefused`, `ConnectionReset` and `Other` may be transient.
    pub(crate) fn size(&self, key: &str) -> io::Result<u64> {
        let (objects, path) = (self.objects.clone(), self.path(key)?);
        let options = GetOptions { head: true, ..GetOptions::default() };
        self.wait(key, async move { Ok(objects.get_opts(&path, options).await?.meta.size) })
    }

    /// Reads an object or a range of its bytes completely, by one request if nothing fails.
    ///
    /// # Errors
    /// Fails as [`Store::size`] does, and with `UnexpectedEof` if the object ends before the range.
    pub(crate) fn read(&self, key: &str, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        let start = Instant::now();
        let mut wait = Duration::from_millis(100);
        loop {
            match self.read_once(key, range.clone()) {
                // `object_store` resumes a broken response only if the server sends an ETag.
                Err(e) if e.kind() == ErrorKind::ConnectionReset && start.elapsed() + wait < RETRIES => std::thread::sleep(wait),
                done => return done,
            }
            wait *= 2;
        }
    }

    fn read_once(&self, key: &str, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        let (objects, path) = (self.objects.clone(), self.path(key)?);
        let requested = range.as_ref().map(|range| range.end.saturating_sub(range.start));
        if requested == Some(0) {
            return Ok(Vec::new());
        }
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        self.wait(key, async move {
            if requested.is_some_and(|length| length > MAX_READ) {
                return Err(TOO_LARGE);
            }
            let response = objects.get_opts(&path, options).await?;
            let length = response.range.end.saturating_sub(response.range.start);
            if requested.is_some_and(|requested| requested != length) {
                return Err(Failure::Other(ErrorKind::UnexpectedEof, SHORTER));
            }
            if length > MAX_READ {
                return Err(TOO_LARGE);
            }
            // Grows with the bytes received, not by the length that the server claims.
            let mut bytes = Vec::with_capacity(length.min(INITIAL_CAPACITY) as usize);
            let mut parts = response.into_stream();
            while let Some(part) = parts.next().await {
                let part = part?;
                if (bytes.len() + part.len()) as u64 > length {
                    return Err(Failure::Other(ErrorKind::InvalidData, "the server sends more bytes than requested"));
                }
                bytes.extend_from_slice(&part);
            }
            match bytes.len() as u64 == length {
                true => Ok(bytes),
                false => Err(Failure::Other(ErrorKind::ConnectionReset, "the response is cut off; try again later")),
            }
        })
    }

    /// Returns an object's path in its bucket.
    fn path(&self, key: &str) -> io::Result<ObjectPath> {
        ObjectPath::parse(format!("{}/{key}", self.prefix).trim_matches('/')).map_err(|_| {
            self.error(
                key,
                Failure::Other(ErrorKind::InvalidInput, "is not a valid object name; it must not contain `..` or empty folders"),
            )
        })
    }

    /// Returns an object's name below the folder.
    fn below<'a>(&self, location: &'a str) -> Option<&'a str> {
        if self.prefix.as_ref().is_empty() {
            return Some(location).filter(|key| !key.is_empty());
        }
        location.strip_prefix(self.prefix.as_ref())?.strip_prefix('/').filter(|key| !key.is_empty())
    }

    /// Runs a request on the runtime's threads and waits for it. The caller may be a thread of
    /// another runtime, and a panic of the request is an error here.
    fn wait<T: Send + 'static>(&self, key: &str, request: impl Future<Output = Result<T, Failure>> + Send + 'static) -> io::Result<T> {
        let (done, response) = mpsc::sync_channel(1);
        self.runtime.spawn(async move { done.send(request.await) });
        let response =
            response.recv().unwrap_or(Err(Failure::Other(ErrorKind::Other, "the request failed internally; please report this")));
        response.map_err(|failure| self.error(key, failure))
    }

    /// Returns the error of a failure, in one line.
    fn error(&self, key: &str, failure: Failure) -> io::Error {
        let (kind, what) = match failure {
            Failure::Other(kind, what) => (kind, what.to_string()),
            Failure::Store(error) => {
                let (kind, what) = self.explain(&error);
                (kind, format!("{what} ({})", reason(&error)))
            }
        };
        let slash = if key.is_empty() { "" } else { "/" };
        io::Error::new(kind, format!("{}{slash}{}: {what}", self.url, key.escape_debug()))
    }

    /// Returns the kind of an error, what happened and what to do.
    fn explain(&self, error: &Error) -> (ErrorKind, String) {
        let later = |what: &str| format!("{what}; try again later");
        let unreachable = || format!("cannot be reached; check the network and the endpoint, and {}", self.access);
        if let Some(status) = status(error) {
            return match status {
                400 => (ErrorKind::InvalidInput, "the server rejects the request; check the URL".into()),
                401 | 403 => (ErrorKind::PermissionDenied, format!("access is denied; {}", self.access)),
                404 | 410 => (ErrorKind::NotFound, "does not exist; check the URL".into()),
                405 | 501 => (ErrorKind::Unsupported, "the server does not support this request".into()),
                416 => (ErrorKind::UnexpectedEof, SHORTER.into()),
                _ => (ErrorKind::Other, later("the server fails")),
            };
        }
        match error {
            Error::NotFound { .. } => return (ErrorKind::NotFound, "does not exist; check the path".into()),
            Error::NotSupported { .. } => {
                return (ErrorKind::Unsupported, "the server does not support ranges of files; download the files first".into());
            }
            Error::InvalidPath { .. } => return (ErrorKind::InvalidInput, "has an invalid name; rename it".into()),
            _ => {}
        }
        for cause in causes(error) {
            let text = cause.to_string();
            if text.contains("redirect without LOCATION") {
                return (ErrorKind::InvalidInput, "the bucket is in another region; set AWS_REGION".into());
            }
            if text.contains("scheme is not allowed") {
                return (ErrorKind::InvalidInput, "the endpoint has no TLS; AWS_ALLOW_HTTP=true permits it".into());
            }
            if text.starts_with("Wanted range starting") {
                return (ErrorKind::UnexpectedEof, SHORTER.into());
            }
            match cause.downcast_ref::<HttpError>().map(HttpError::kind) {
                Some(HttpErrorKind::Timeout) => return (ErrorKind::TimedOut, later("does not respond in time")),
                Some(HttpErrorKind::Connect) => return (ErrorKind::ConnectionRefused, unreachable()),
                Some(HttpErrorKind::Request | HttpErrorKind::Interrupted | HttpErrorKind::Decode) => {
                    return (ErrorKind::ConnectionReset, later("the response is cut off"));
                }
                _ => {}
            }
        }
        (ErrorKind::Other, "cannot be read".into())
    }
}

/// Returns an error and its causes, outermost first.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

/// Returns the part of `object_store`'s message that begins with the HTTP status. The crate does
/// not expose the number.
fn http_status_text(text: &str) -> Option<&str> {
    Some(text.split_once("status code: ")?.1)
}

fn status(error: &Error) -> Option<u16> {
    http_status_text(&error.to_string())?.get(..3)?.parse().ok()
}

/// Returns the cause of an error in one line. Of a response only its status and the store's error
/// code are included: the rest may contain signatures.
fn reason(error: &Error) -> String {
    if let Some(response) = http_status_text(&error.to_string()) {
        let code = response.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
        let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
        let status: String = response.chars().take_while(char::is_ascii_digit).collect();
        return format!("HTTP status {status} {code}").trim_end().to_string();
    }
    let innermost = causes(error).last().map(ToString::to_string).unwrap_or_default();
    innermost.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// Returns a store and advice for errors of access; `None` for a scheme that is not supported.
fn connect(
    scheme: &ObjectStoreScheme,
    url: &Url,
    settings: &[(String, String)],
) -> object_store::Result<Option<(Arc<dyn ObjectStore>, &'static str)>> {
    let options = ClientOptions::new().with_connect_timeout(CONNECT).with_read_timeout(STALL).with_timeout(REQUEST);
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() };
    let retries = RetryConfig { backoff, max_retries: 20, retry_timeout: RETRIES };
    macro_rules! configured {
        ($builder:ty, $prefix:literal, $other:literal, $options:expr) => {{
            let builder = <$builder>::new().with_url(url.as_str()).with_retry(retries).with_client_options($options);
            let named = settings.iter().filter(|(name, _)| name.starts_with($prefix) || name == $other);
            let builder = named.fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder, // a variable of another program
            });
            Arc::new(builder.build()?)
        }};
    }
    Ok(Some(match scheme {
        ObjectStoreScheme::AmazonS3 => (
            configured!(AmazonS3Builder, "AWS_", "", options),
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL; AWS_SKIP_SIGNATURE=true for a public bucket",
        ),
        // The builder's own default: a virtual machine's token server has no TLS.
        ObjectStoreScheme::GoogleCloudStorage => (
            configured!(GoogleCloudStorageBuilder, "GOOGLE_", "SERVICE_ACCOUNT", options.with_allow_http(true)),
            "check GOOGLE_APPLICATION_CREDENTIALS; GOOGLE_SKIP_SIGNATURE=true for a public bucket",
        ),
        ObjectStoreScheme::MicrosoftAzure => (
            configured!(MicrosoftAzureBuilder, "AZURE_", "IDENTITY_ENDPOINT", options),
            "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; AZURE_SKIP_SIGNATURE=true for a public container",
        ),
        ObjectStoreScheme::Http => {
            let host = &url[..Position::BeforePath];
            let options = options.with_allow_http(url.scheme() == "http");
            (Arc::new(HttpBuilder::new().with_url(host).with_retry(retries).with_client_options(options).build()?), "check the URL")
        }
        ObjectStoreScheme::Local => (Arc::new(object_store::local::LocalFileSystem::new()), "check the path"),
        _ => return Ok(None),
    }))
}
