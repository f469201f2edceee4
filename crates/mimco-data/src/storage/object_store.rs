//! Object stores and web servers, asked through the `object_store` crate on threads of their own.

use crate::DataError;
use crate::remote::{BLOCK, names_container, shown};
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

/// For how long a request that failed is made again. Tests have no time to wait for a server that is not there.
const RETRIES: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(30) };

/// For how long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// For how long an answer may stand still.
const STALL: Duration = Duration::from_secs(20);

/// For how long one request may take with its answer's bytes.
const REQUEST: Duration = Duration::from_secs(300);

const SHORTER: &str = "is shorter than it was; fetch the list of files again";

/// Bytes that one read may bring.
const MOST: u64 = 1 << 30;

/// Objects that one listing may have.
const MOST_LISTED: usize = 50_000_000;

/// What runs the requests: two threads carry more than a fast network.
static RUNTIME: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
    // Where the program has chosen a provider of its own already, that one stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Builder::new_multi_thread().worker_threads(2).thread_name("mimco-remote").enable_all().build().map_err(|e| e.to_string())
});

/// A folder of an object store, or one object. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    runtime: &'static Runtime,
    /// What the URL names below the bucket or the host.
    prefix: ObjectPath,
    /// The URL, for messages.
    url: String,
    /// What to do where access is refused.
    access: &'static str,
    /// Whether it is a web server.
    web: bool,
}

/// Why a request brought nothing.
enum Failure {
    Store(Error),
    Other(ErrorKind, &'static str),
}

const OVERDUE: Failure = Failure::Other(ErrorKind::TimedOut, "does not answer in time; try again later");
const TOO_LARGE: Failure = Failure::Other(ErrorKind::InvalidInput, "is larger than 1 GiB, which one read may bring; split it into shards");

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Store(error)
    }
}

impl Store {
    /// The store and folder that a URL names, with credentials, region and endpoint from the environment: `AWS_...`, `GOOGLE_...` and `AZURE_...`
    /// as `object_store` names them. Nothing is asked of the network yet.
    ///
    /// # Errors
    /// A URL of another kind, with a password, a query or a fragment; settings that make no sense.
    pub(crate) fn open(url: &str) -> Result<Store, DataError> {
        let settings = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Store::with(url, &settings.collect::<Vec<_>>())
    }

    /// As [`Store::open`], with an environment of names and values.
    pub(crate) fn with(text: &str, settings: &[(String, String)]) -> Result<Store, DataError> {
        let refused = |what: String| DataError::path(shown(text), what);
        let url = Url::parse(text).map_err(|e| refused(format!("is no URL ({e}); write it as s3://BUCKET/FOLDER")))?;
        let user = !url.username().is_empty() && !names_container(url.scheme());
        if user || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(refused(
                "has a user, a password, `?` or `#`; credentials come from the environment, and in a name `?` is %3F, `#` %23".into(),
            ));
        }
        let unknown = || refused(format!("no store is known for {}://; give s3://, gs://, az:// or http(s)://", url.scheme()));
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|_| unknown())?;
        let runtime = RUNTIME.as_ref().map_err(|e| refused(format!("no threads for the network: {e}")))?;
        let (objects, access) =
            connect(&scheme, &url, settings).map_err(|e| refused(format!("cannot be opened: {}", reason(&e))))?.ok_or_else(unknown)?;
        let web = scheme == ObjectStoreScheme::Http;
        Ok(Store { objects, runtime, prefix, url: shown(text).trim_end_matches('/').to_string(), access, web })
    }

    /// All objects below the folder: what they are called there, with `/`, and their bytes; by name, bytewise.
    ///
    /// # Errors
    /// A store that is not there, refuses, or gives no listing, as most web servers do.
    pub(crate) fn list(&self) -> Result<Vec<(String, u64)>, DataError> {
        let store = self.clone();
        let listed = self.wait("", async move {
            let mut objects = store.objects.list(Some(&store.prefix));
            let mut found = Vec::new();
            // Each object is waited for on its own: a listing may be long, but must go on.
            while let Some(object) = tokio::time::timeout(REQUEST, objects.next()).await.map_err(|_| OVERDUE)? {
                let object = object?;
                if found.len() == MOST_LISTED {
                    return Err(Failure::Other(ErrorKind::InvalidInput, "holds too many objects; give a folder of fewer"));
                }
                found.extend(store.below(object.location.as_ref()).map(|key| (key.to_string(), object.size)));
            }
            found.sort_unstable();
            Ok(found)
        });
        listed.map_err(|e| {
            let text = e.to_string();
            let what = text.strip_prefix(&format!("{}: ", self.url)).unwrap_or(&text);
            let answered = !matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset);
            let hint = if self.web && answered { "; few web servers list their files: name them, as NAME-{000..127}.tar" } else { "" };
            DataError::path(&self.url, format!("{what}{hint}"))
        })
    }

    /// An object's bytes, by one request. `key` is its name below the folder; where it is empty, the URL itself names the object.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `InvalidInput` and `Unsupported` stay; `TimedOut`, `ConnectionRefused`, `ConnectionReset` and `Other` may pass.
    pub(crate) fn size(&self, key: &str) -> io::Result<u64> {
        let (objects, path) = (self.objects.clone(), self.path(key)?);
        let options = GetOptions { head: true, ..GetOptions::default() };
        self.wait(key, async move { Ok(objects.get_opts(&path, options).await?.meta.size) })
    }

    /// An object, or some bytes of it, all of them or none; one request where nothing fails.
    ///
    /// # Errors
    /// As [`Store::size`]; `UnexpectedEof` where the object ends before the range does.
    pub(crate) fn read(&self, key: &str, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        let begun = Instant::now();
        let mut wait = Duration::from_millis(100);
        loop {
            match self.read_once(key, range.clone()) {
                // object_store asks again for the rest of an answer only where the server tells objects' versions apart by an ETag.
                Err(e) if e.kind() == ErrorKind::ConnectionReset && begun.elapsed() + wait < RETRIES => std::thread::sleep(wait),
                done => return done,
            }
            wait *= 2;
        }
    }

    fn read_once(&self, key: &str, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
        let (objects, path) = (self.objects.clone(), self.path(key)?);
        let asked = range.as_ref().map(|range| range.end.saturating_sub(range.start));
        if asked == Some(0) {
            return Ok(Vec::new());
        }
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        self.wait(key, async move {
            if asked.is_some_and(|length| length > MOST) {
                return Err(TOO_LARGE);
            }
            let answer = objects.get_opts(&path, options).await?;
            let length = answer.range.end.saturating_sub(answer.range.start);
            if asked.is_some_and(|asked| asked != length) {
                return Err(Failure::Other(ErrorKind::UnexpectedEof, SHORTER));
            }
            if length > MOST {
                return Err(TOO_LARGE);
            }
            // Grows with what comes, not by what a server promises.
            let mut bytes = Vec::with_capacity(length.min(BLOCK) as usize);
            let mut parts = answer.into_stream();
            while let Some(part) = parts.next().await {
                let part = part?;
                if (bytes.len() + part.len()) as u64 > length {
                    return Err(Failure::Other(ErrorKind::InvalidData, "the server sends more than it was asked for"));
                }
                bytes.extend_from_slice(&part);
            }
            match bytes.len() as u64 == length {
                true => Ok(bytes),
                false => Err(Failure::Other(ErrorKind::ConnectionReset, "the answer breaks off; try again later")),
            }
        })
    }

    /// The path in the bucket of an object.
    fn path(&self, key: &str) -> io::Result<ObjectPath> {
        ObjectPath::parse(format!("{}/{key}", self.prefix).trim_matches('/')).map_err(|_| {
            self.told(key, Failure::Other(ErrorKind::InvalidInput, "is no name in an object store; name no `..` and no empty folder"))
        })
    }

    /// What an object is called below the folder.
    fn below<'a>(&self, location: &'a str) -> Option<&'a str> {
        if self.prefix.as_ref().is_empty() {
            return Some(location).filter(|key| !key.is_empty());
        }
        location.strip_prefix(self.prefix.as_ref())?.strip_prefix('/').filter(|key| !key.is_empty())
    }

    /// Runs a request on threads of its own, so that a thread of another runtime may wait too, and a panic in there is an error here.
    fn wait<T: Send + 'static>(&self, key: &str, request: impl Future<Output = Result<T, Failure>> + Send + 'static) -> io::Result<T> {
        let (done, answer) = mpsc::sync_channel(1);
        self.runtime.spawn(async move { done.send(request.await) });
        let answer = answer.recv().unwrap_or(Err(Failure::Other(ErrorKind::Other, "the request failed within; report this")));
        answer.map_err(|failure| self.told(key, failure))
    }

    /// One line about a failure.
    fn told(&self, key: &str, failure: Failure) -> io::Error {
        let (kind, what) = match failure {
            Failure::Other(kind, what) => (kind, what.to_string()),
            Failure::Store(error) => {
                let (kind, what) = self.meaning(&error);
                (kind, format!("{what} ({})", reason(&error)))
            }
        };
        let slash = if key.is_empty() { "" } else { "/" };
        io::Error::new(kind, format!("{}{slash}{}: {what}", self.url, key.escape_debug()))
    }

    /// What an error means, and what to do.
    fn meaning(&self, error: &Error) -> (ErrorKind, String) {
        let later = |what: &str| format!("{what}; try again later");
        let unreachable = || format!("cannot be reached; check the network and the endpoint, and {}", self.access);
        if let Some(status) = status(error) {
            return match status {
                400 => (ErrorKind::InvalidInput, "the server refuses the request; check the URL".into()),
                401 | 403 => (ErrorKind::PermissionDenied, format!("may not be read; {}", self.access)),
                404 | 410 => (ErrorKind::NotFound, "is not there; check the URL".into()),
                405 | 501 => (ErrorKind::Unsupported, "the server cannot do this".into()),
                416 => (ErrorKind::UnexpectedEof, SHORTER.into()),
                _ => (ErrorKind::Other, later("the server fails")),
            };
        }
        match error {
            Error::NotFound { .. } => return (ErrorKind::NotFound, "is not there; check the path".into()),
            Error::NotSupported { .. } => return (ErrorKind::Unsupported, "the server gives no parts of files; fetch them first".into()),
            Error::InvalidPath { .. } => return (ErrorKind::InvalidInput, "has a name that cannot be read; rename it".into()),
            _ => {}
        }
        for cause in causes(error) {
            let text = cause.to_string();
            if text.contains("redirect without LOCATION") {
                return (ErrorKind::InvalidInput, "the bucket lies in another region; set AWS_REGION".into());
            }
            if text.contains("scheme is not allowed") {
                return (ErrorKind::InvalidInput, "the endpoint has no TLS; AWS_ALLOW_HTTP=true permits it".into());
            }
            if text.starts_with("Wanted range starting") {
                return (ErrorKind::UnexpectedEof, SHORTER.into());
            }
            match cause.downcast_ref::<HttpError>().map(HttpError::kind) {
                Some(HttpErrorKind::Timeout) => return (ErrorKind::TimedOut, later("does not answer in time")),
                Some(HttpErrorKind::Connect) => return (ErrorKind::ConnectionRefused, unreachable()),
                Some(HttpErrorKind::Request | HttpErrorKind::Interrupted | HttpErrorKind::Decode) => {
                    return (ErrorKind::ConnectionReset, later("the answer breaks off"));
                }
                _ => {}
            }
        }
        (ErrorKind::Other, "cannot be read".into())
    }
}

/// An error and what brought it about, outermost first.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

/// What object_store says of an answer that is none; it keeps the number to itself, so its words are searched.
fn refusal(text: &str) -> Option<&str> {
    Some(text.split_once("status code: ")?.1)
}

fn status(error: &Error) -> Option<u16> {
    refusal(&error.to_string())?.get(..3)?.parse().ok()
}

/// Why an error came about, in one line. Of an answer only its status and the store's code for the error are told: the rest may hold signatures.
fn reason(error: &Error) -> String {
    if let Some(answer) = refusal(&error.to_string()) {
        let code = answer.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
        let code: String = code.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
        let status: String = answer.chars().take_while(char::is_ascii_digit).collect();
        return format!("HTTP status {status} {code}").trim_end().to_string();
    }
    let innermost = causes(error).last().map(ToString::to_string).unwrap_or_default();
    innermost.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// A store, and what to do where it refuses; none of a scheme that is not for images.
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
                Err(_) => builder, // another program's
            });
            Arc::new(builder.build()?)
        }};
    }
    Ok(Some(match scheme {
        ObjectStoreScheme::AmazonS3 => (
            configured!(AmazonS3Builder, "AWS_", "", options),
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL; AWS_SKIP_SIGNATURE=true for a public bucket",
        ),
        // The builder's own default: a machine's own server of tokens has no TLS.
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
