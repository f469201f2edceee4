//! Reading from object stores, tested against a small server that fails in the ways of real ones.

use crate::storage::object_reader::BLOCK;
use crate::storage::object_store::Store;
use std::collections::BTreeMap;
use std::io::{Cursor, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The server's reaction to a request.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Whole,
    /// Half of the bytes, then the connection is closed.
    Half,
    /// The whole file instead of the requested range.
    NoRange,
    /// A range's header and twice its bytes.
    Twice,
    /// No response in time.
    Silence,
    Status(&'static str),
}

/// Chooses the answer by the request's number and whether it is for a file's bytes.
type Answers = fn(usize, bool) -> Answer;

struct Server {
    host: String,
    /// Bytes of files or listings sent for each request.
    sent: Arc<Mutex<Vec<usize>>>,
}

type Objects = BTreeMap<&'static str, Vec<u8>>;

impl Server {
    /// Serves `/bucket/NAME`, with S3's listings in pages of two.
    fn new(objects: Objects, etag: bool, answer: Answers) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let sent = Arc::<Mutex<Vec<usize>>>::default();
        let (objects, log) = (Arc::new(objects), sent.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (objects, log) = (objects.clone(), log.clone());
                std::thread::spawn(move || serve(stream, &objects, etag, answer, &log));
            }
        });
        Server { host, sent }
    }

    fn s3(&self, folder: &str, more: &[(&str, &str)]) -> Store {
        let endpoint = format!("http://{}", self.host);
        let settings =
            [("AWS_ENDPOINT_URL", &*endpoint), ("AWS_ALLOW_HTTP", "true"), ("AWS_SKIP_SIGNATURE", "true"), ("AWS_PAGER", "less")];
        let settings: Vec<_> = settings.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Store::with_settings(&format!("s3://bucket/{folder}"), &settings).unwrap()
    }

    fn web(&self, folder: &str) -> Store {
        Store::with_settings(&format!("http://{}/bucket/{folder}", self.host), &[]).unwrap()
    }

    fn sent(&self) -> Vec<usize> {
        self.sent.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, objects: &Objects, etag: bool, answer: Answers, log: &Mutex<Vec<usize>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap().to_string(), words.next().unwrap().to_string());
    let name = target.strip_prefix("/bucket/").unwrap_or_default();
    let number = log.lock().unwrap().len();
    let what = answer(number, method == "GET" && !target.contains("list-type"));
    let (mut status, mut body, mut more) =
        ("404 Not Found", b"<Error><Code>NoSuchKey</Code><Key>signed-with-hush</Key></Error>".to_vec(), String::new());
    if let Some(query) = target.strip_prefix("/bucket?") {
        (status, body) = ("200 OK", page(objects, query).into_bytes());
    } else if let Some(object) = objects.get(name) {
        (status, body) = ("200 OK", object.clone());
        let range = head.lines().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_string));
        if let Some((first, last)) = range.as_deref().filter(|_| what != Answer::NoRange).and_then(|range| range.split_once('-')) {
            let (first, last) = (first.parse::<usize>().unwrap(), last.parse::<usize>().unwrap().min(object.len().saturating_sub(1)));
            (status, body) = match object.get(first..=last) {
                Some(part) => ("206 Partial Content", part.to_vec()),
                None => ("416 Range Not Satisfiable", Vec::new()),
            };
            more = format!("Content-Range: bytes {first}-{last}/{}\r\n", object.len());
        }
        more += "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n";
        more += if etag { "ETag: \"1\"\r\n" } else { "" };
    }
    if method == "PROPFIND" {
        status = "405 Method Not Allowed"; // as all servers except WebDAV's
    }
    match what {
        Answer::Status(other) => (status, body) = (other, b"<Error><Code>Trouble</Code><Signed>hush</Signed></Error>".to_vec()),
        Answer::Twice => body = [body.clone(), body].concat(),
        Answer::Silence => std::thread::sleep(Duration::from_secs(2)),
        _ => {}
    }
    let sent = match (&*method, what) {
        ("HEAD", _) => 0,
        (_, Answer::Half) => body.len() / 2,
        _ => body.len(),
    };
    log.lock().unwrap().push(sent);
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent]));
}

/// Returns a page of two objects of a listing, and the start of the next page.
fn page(objects: &Objects, query: &str) -> String {
    let field = |name| query.split('&').find_map(|field: &str| field.strip_prefix(name)).unwrap_or_default().replace("%2F", "/");
    let (prefix, first) = (field("prefix="), field("continuation-token=").parse::<usize>().unwrap_or(0));
    // In reverse order, as stores need not sort.
    let names: Vec<_> = objects.iter().rev().filter(|(name, _)| name.starts_with(&prefix)).collect();
    let mut page = String::from("<ListBucketResult>");
    for (name, bytes) in names.iter().skip(first).take(2) {
        let time = "2024-01-01T00:00:00.000Z";
        page +=
            &format!("<Contents><Key>{name}</Key><LastModified>{time}</LastModified><ETag>1</ETag><Size>{}</Size></Contents>", bytes.len());
    }
    if first + 2 < names.len() {
        page += &format!("<NextContinuationToken>{}</NextContinuationToken>", first + 2);
    }
    page + "</ListBucketResult>"
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Returns names, offsets and lengths of an archive's members.
fn members(archive: impl Read + Seek) -> Vec<(String, u64, u64)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries_with_seek().unwrap().map(Result::unwrap);
    entries.map(|e| (String::from_utf8(e.path_bytes().into_owned()).unwrap(), e.raw_file_position(), e.size())).collect()
}

fn whole(_: usize, _: bool) -> Answer {
    Answer::Whole
}

#[test]
fn a_listing_has_all_pages_of_the_folder_alone_sorted_bytewise() {
    let names = ["dir/", "dir/b.tar", "dir/a/x.jpg", "dir/a.jpg", "dir/Z.jpg", "dir2/c.jpg", "top.jpg"];
    let objects = names.iter().zip(0..).map(|(&name, length)| (name, vec![0; length])).collect();
    let server = Server::new(objects, true, whole);
    let listed = |folder: &str| server.s3(folder, &[]).list().unwrap();
    let expected = [("Z.jpg", 4), ("a.jpg", 3), ("a/x.jpg", 2), ("b.tar", 1)].map(|(name, length)| (name.to_string(), length));
    assert_eq!((listed("dir"), listed("dir/")), (expected.to_vec(), expected.to_vec()));
    assert_eq!(server.sent().len(), 6); // five objects below dir/, in pages of two
    assert_eq!((listed("").len(), listed("nothing").len()), (7, 0));
}

#[test]
fn threads_read_ranges_of_shards_and_skip_large_members() {
    let (small, large) = (noise(3000, 1), noise(2 * BLOCK as usize, 2));
    let shard = tar(&[("a.jpg", &small), ("large.bin", &large), ("b.jpg", &small[..700]), ("b.cls", b"7")]);
    let server = Server::new([("dir/s-0.tar", shard.clone()), ("dir/s-1.tar", shard.clone())].into(), true, whole);
    let expected = members(Cursor::new(&shard));
    assert_eq!(expected.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["a.jpg", "large.bin", "b.jpg", "b.cls"]);
    let store = server.s3("dir", &[]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, expected, small) = (&store, &expected, &small);
            scope.spawn(move || {
                let key = format!("s-{}.tar", thread % 2);
                assert_eq!(&members(store.reader(&key).unwrap()), expected);
                let (_, start, length) = expected[2];
                assert_eq!(store.read(&key, Some(start..start + length)).unwrap(), small[..700]);
            });
        }
    });
    // Each thread: the size, the block of the first headers, the block after the large member, an
    // image.
    let sent = server.sent();
    assert_eq!(sent.len(), 16);
    assert!(sent.iter().sum::<usize>() < 4 * (BLOCK as usize + 10_000), "{sent:?}");
    assert_eq!(store.size("s-1.tar").unwrap(), shard.len() as u64);
    assert!(store.read("s-0.tar", None).unwrap() == shard && server.s3("dir/s-0.tar", &[]).read("", None).unwrap() == shard);
}

#[test]
fn a_reader_reads_and_seeks_as_a_file_does() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(BLOCK as usize + 5000, 3);
    std::fs::create_dir(folder.path().join("50 % ü")).unwrap();
    std::fs::write(folder.path().join("50 % ü/a#b?.bin"), &bytes).unwrap();
    let store = Store::open(&format!("file://{}", folder.path().display())).unwrap();
    let listed = store.list().unwrap();
    assert_eq!(listed.iter().map(|(_, length)| *length).collect::<Vec<_>>(), [bytes.len() as u64]);
    let (mut reader, mut file) = (store.reader(&listed[0].0).unwrap(), Cursor::new(&bytes));
    for (step, by) in noise(60, 4).into_iter().enumerate() {
        let to = match step % 4 {
            0 => SeekFrom::Start(by as u64 * 17_000),
            1 => SeekFrom::Current(by as i64 * 9000),
            2 => SeekFrom::End(-(by as i64) * 16_000),
            _ => SeekFrom::Current(-(by as i64)),
        };
        assert_eq!(reader.seek(to).ok(), file.seek(to).ok(), "{to:?}");
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        reader.by_ref().take(by as u64 * 100).read_to_end(&mut got).unwrap();
        file.by_ref().take(by as u64 * 100).read_to_end(&mut expected).unwrap();
        assert!(got == expected, "{to:?}");
    }
    assert_eq!(reader.seek(SeekFrom::End(-(bytes.len() as i64) - 1)).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(reader.seek(SeekFrom::Start(u64::MAX)).unwrap(), u64::MAX);
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_request_that_is_cut_off_or_meets_a_busy_server_is_retried() {
    let bytes = noise(90_000, 5);
    let fails: Answers = |number, bytes| match number % 3 {
        0 if bytes => Answer::Half,
        1 => Answer::Status("503 Slow Down"),
        _ => Answer::Whole,
    };
    for etag in [true, false] {
        let server = Server::new([("a.bin", bytes.clone())].into(), etag, fails);
        let store = if etag { server.s3("", &[]) } else { server.web("") };
        for _ in 0..2 {
            assert!(store.read("a.bin", Some(1000..80_000)).unwrap() == bytes[1000..80_000], "{etag}");
        }
        assert!(server.sent().len() > 2);
        assert_eq!(store.size("a.bin").unwrap(), 90_000);
    }
}

#[test]
fn failures_have_a_kind_and_one_line_without_secrets() {
    let objects: Objects = [("dir/a.bin", noise(1000, 6))].into();
    let fails = |error: std::io::Error, kind: ErrorKind, words: &[&str]| {
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        assert!(!text.contains('\n') && !text.contains("hush") && text.len() < 400, "{text}");
    };
    let server = Server::new(objects.clone(), true, whole);
    let store = server.s3("dir", &[]);
    fails(
        store.read("b.bin", None).unwrap_err(),
        ErrorKind::NotFound,
        &["s3://bucket/dir/b.bin: does not exist; check the URL (HTTP status 404 NoSuchKey)"],
    );
    fails(store.size("b.bin").unwrap_err(), ErrorKind::NotFound, &["HTTP status 404"]);
    for range in [900..1001, 1000..1001, 5000..u64::MAX / 2] {
        let kind = if range.end > 2000 { ErrorKind::InvalidInput } else { ErrorKind::UnexpectedEof };
        fails(store.read("a.bin", Some(range)).unwrap_err(), kind, &["dir/a.bin: is "]);
    }
    assert!(store.read("a.bin", Some(7..7)).unwrap().is_empty());
    for key in ["../a.bin", "x//y", "a\nb/.."] {
        fails(store.read(key, None).unwrap_err(), ErrorKind::InvalidInput, &["is not a valid object name"]);
    }
    let answers: [(Answers, ErrorKind, &str); 7] = [
        (|_, _| Answer::Status("403 Forbidden"), ErrorKind::PermissionDenied, "check AWS_ACCESS_KEY_ID"),
        (|_, _| Answer::Status("401 Unauthorized"), ErrorKind::PermissionDenied, "AWS_SKIP_SIGNATURE=true"),
        (|_, _| Answer::Status("400 Bad Request"), ErrorKind::InvalidInput, "HTTP status 400 Trouble"),
        (|_, _| Answer::Status("301 Moved Permanently"), ErrorKind::InvalidInput, "set AWS_REGION"),
        (|_, _| Answer::Status("500 Internal Server Error"), ErrorKind::Other, "try again later (HTTP status 500 Trouble)"),
        (|_, _| Answer::Half, ErrorKind::ConnectionReset, "cut off"),
        (|_, _| Answer::Twice, ErrorKind::InvalidData, "more bytes than requested"),
    ];
    std::thread::scope(|scope| {
        for (answer, kind, word) in answers {
            let store = Server::new(objects.clone(), true, answer).s3("dir", &[]);
            let fails = &fails;
            scope.spawn(move || fails(store.read("a.bin", Some(0..500)).unwrap_err(), kind, &["s3://bucket/dir/a.bin: ", word]));
        }
    });
    let forbidden =
        Server::new(objects.clone(), true, |_, _| Answer::Status("403 Forbidden")).s3("dir", &[]).list().err().unwrap().to_string();
    assert!(
        forbidden.starts_with("s3://bucket/dir: access is denied; check AWS_") && forbidden.ends_with("(HTTP status 403 Trouble)"),
        "{forbidden}"
    );
    let plain = Server::new(objects, false, |_, _| Answer::NoRange).web("dir");
    assert_eq!(plain.read("a.bin", None).unwrap(), noise(1000, 6));
    fails(plain.read("a.bin", Some(0..500)).unwrap_err(), ErrorKind::Unsupported, &["does not support ranges"]);
    let listed = plain.list().err().unwrap().to_string();
    assert!(listed.contains("NAME-{000..127}.tar") && listed.matches("http://").count() == 1, "{listed}");
}

#[test]
fn a_silent_or_absent_server_is_an_error_in_time() {
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let silent = Server::new([("a.bin", vec![0; 10])].into(), true, |_, _| Answer::Silence);
            let error = silent.s3("", &[("AWS_READ_TIMEOUT", "100 ms")]).read("a.bin", None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        });
        let absent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // the listener is closed
        let store = Store::with_settings(&format!("http://{absent}/x"), &[]).unwrap();
        let error = store.read("a.bin", None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        assert!(error.to_string().contains(&format!("http://{absent}/x/a.bin: cannot be reached; check the network")), "{error}");
    });
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn errors_about_urls_and_settings_contain_no_secrets() {
    let refused = [
        ("https://me:hush@host/x", "https://host/x: has a user, a password"),
        ("https://host/x?X-Amz-Signature=hush", "https://host/x: has"),
        ("https://hush@host/x", "https://host/x: has a user"),
        ("s3://bucket/x#1", "%23"),
        ("hf://datasets/x", "hf:// is not supported"),
        ("s3://", "s3://"),
        ("https://[host/x", "write it as s3://"),
    ];
    for (url, words) in refused {
        let error = Store::open(url).err().unwrap().to_string();
        assert!(error.contains(words) && !error.contains("hush") && !error.contains('\n'), "{url}: {error}");
    }
    let unusable = [("AWS_ACCESS_KEY_ID".to_string(), "hush".to_string())];
    let error = Store::with_settings("s3://bucket", &unusable).err().unwrap().to_string();
    assert!(error.contains("s3://bucket: cannot be opened") && !error.contains("hush"), "{error}");
    let unusable =
        [("AWS_SKIP_SIGNATURE".to_string(), "true".to_string()), ("AWS_ENDPOINT_URL".to_string(), "http://127.0.0.1:1".to_string())];
    let error = Store::with_settings("s3://bucket", &unusable).unwrap_or_else(|e| panic!("{e}")).read("x", None).unwrap_err();
    assert!(error.to_string().contains("AWS_ALLOW_HTTP=true"), "{error}");
}
