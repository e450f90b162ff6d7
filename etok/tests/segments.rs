// SPDX-License-Identifier: MIT OR Apache-2.0
//! Media segments in a folder, and playing them from an HTTP server with Range.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use common::{Folder, has, read, stderr};
use elastictok::bitstream::{Limits, MediaIndex, read_media_segment};

const CLIP: &str = "encode test:smpte a.etok --quiet --size 160x96 --duration 6 --psnr 44 --layers 2 --key-int-max 30";

/// A server of the files in a folder, with Range where `ranges`, that sends up to `rate` bytes per second (0: any). It ends
/// with the test.
struct Server {
    address: String,
    /// Path and Range of each request.
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Server {
    fn new(root: PathBuf, ranges: bool, rate: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (root, log) = (root.clone(), log.clone());
                std::thread::spawn(move || serve(connection, &root, ranges, rate, &log));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

fn serve(mut out: TcpStream, root: &std::path::Path, ranges: bool, rate: usize, log: &Mutex<Vec<(String, String)>>) {
    let mut lines = BufReader::new(out.try_clone().unwrap()).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        let path = first.split(' ').nth(1).unwrap_or("/").to_string();
        let range = lines.by_ref().take_while(|line| !line.is_empty()).filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("range").then(|| value.to_string())
        });
        let range = range.last().unwrap_or_default();
        log.lock().unwrap().push((path.clone(), range.clone()));
        let Ok(data) = std::fs::read(root.join(&path[1..])) else {
            let _ = out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
            continue;
        };
        let asked = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).filter(|_| ranges);
        let (head, body) = match asked {
            Some((from, to)) => {
                let from: usize = from.parse().unwrap();
                let to = to.parse().unwrap_or(usize::MAX).min(data.len() - 1);
                let head = format!("206 Partial Content\r\nContent-Range: bytes {from}-{to}/{}", data.len());
                (head, &data[from..=to])
            }
            None => ("200 OK".into(), &data[..]),
        };
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
        if out.write_all(head.as_bytes()).is_err() {
            return;
        }
        for piece in body.chunks(250) {
            if out.write_all(piece).is_err() {
                return;
            }
            if rate > 0 {
                std::thread::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64));
            }
        }
    }
}

/// Where layers end in the media segments of `site`.
fn index(f: &Folder) -> MediaIndex {
    MediaIndex::parse(&read(&f.file("site/index.json")), &Limits::default()).unwrap()
}

/// The requests for media segments as layers, by how far their Range goes.
fn layers(index: &MediaIndex, requests: &[(String, String)]) -> Vec<usize> {
    let entries = index.segments.iter().zip(requests.iter().filter(|(path, _)| path.ends_with(".etoks")));
    entries
        .map(|(entry, (path, range))| {
            assert!(path.ends_with(&entry.uri), "{path}");
            let last: u64 = range.strip_prefix("bytes=0-").unwrap().parse().unwrap();
            entry.layer_ends.iter().position(|&end| end == last + 1).unwrap() + 1
        })
        .collect()
}

#[test]
fn a_stream_comes_back_to_the_byte_and_its_front_is_the_thinned_stream() {
    let f = Folder::new("segment");
    f.good(CLIP);
    f.good("segment a.etok site --duration 2 --quiet");
    let index = index(&f);
    assert_eq!((index.width, index.height, index.segments.len(), index.layers()), (160, 96, 3, 2));
    assert!(index.segments.iter().all(|entry| entry.duration_ns == 2_000_000_000));
    f.good("thin a.etok thin.etok --layers 1 --quiet");
    for (layers, stream) in [(1, "thin.etok"), (2, "a.etok")] {
        let mut all = BytesMut::new();
        for entry in &index.segments {
            let file = read(&f.file(&format!("site/{}", entry.uri)));
            assert_eq!(entry.bytes(9), file.len() as u64);
            let front = &file[..entry.bytes(layers) as usize];
            assert_eq!(read_media_segment(front, &Limits::default(), &mut all), Ok(layers));
        }
        assert_eq!(all, read(&f.file(stream)), "{stream}");
    }
    // The same pictures, by way of the index.
    f.good("decode a.etok a.y4m --quiet");
    f.good("decode site/index.json b.y4m --quiet");
    assert_eq!(read(&f.file("a.y4m")), read(&f.file("b.y4m")));
}

#[test]
fn a_player_starts_low_climbs_and_keeps_to_what_it_is_told() {
    if !has("souphttpsrc") && !has("curlhttpsrc") {
        return eprintln!("skipped: GStreamer has neither souphttpsrc nor curlhttpsrc here");
    }
    let f = Folder::new("http");
    f.good(CLIP);
    f.good("segment a.etok site --duration 1 --quiet");
    let index = index(&f);
    let server = Server::new(f.0.clone(), true, 0);
    let url = format!("{}/site/index.json", server.address);
    let output = f.run(&format!("play {url} --sink fakesink"));
    assert!(output.status.success() && stderr(&output).contains("layers of each media segment: 1 "), "{}", stderr(&output));
    let got = layers(&index, &server.requests());
    assert_eq!((got.len(), got[0], got[5]), (6, 1, 2), "{got:?}");
    // A rate just below that of both layers of the largest.
    let need = index.segments.iter().map(|entry| entry.bytes(2) * 8_000_000 / entry.duration_ns).max().unwrap();
    f.good(&format!("play {url} --sink fakesink --quiet --bitrate {need}"));
    let got = layers(&index, &server.requests());
    assert!(got.contains(&1) && got.len() == 6, "{got:?}");
    f.good(&format!("play {url} --sink fakesink --quiet --bitrate 100000"));
    assert_eq!(layers(&index, &server.requests()), [2; 6]);
    // A network slower than the base layer: never more than that.
    let slow = Server::new(f.0.clone(), true, (index.segments[0].bytes(1) / 2) as usize);
    f.good(&format!("play {}/site/index.json --sink fakesink --quiet", slow.address));
    assert_eq!(layers(&index, &slow.requests()), [1; 6]);
    // A server without Range sends too much, and that does no harm.
    let plain = Server::new(f.0.clone(), false, 0);
    f.good(&format!("decode {}/site/index.json c.y4m --quiet --layers 1", plain.address));
    f.good("decode site/index.json d.y4m --quiet --layers 1");
    assert_eq!(read(&f.file("c.y4m")), read(&f.file("d.y4m")));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let f = Folder::new("segment-wrong");
    f.clip("a.etok", 20, "--key-int-max 10");
    assert!(f.bad("segment none.etok site", 3, "site").contains("none.etok"));
    assert!(f.bad("segment a.etok a.etok", 5, "site").contains("not a folder"));
    f.good("segment a.etok site --duration 0.1 --quiet");
    assert_eq!(index(&f).segments.len(), 2);
    assert!(f.bad("segment a.etok site", 5, "").contains("--force"));
    f.good("segment a.etok site --force --quiet");
    assert_eq!(index(&f).segments.len(), 1);
    std::fs::write(f.file("site/00000.etoks"), b"short").unwrap();
    assert!(f.bad("decode site/index.json x.y4m", 3, "").contains("make both again"));
    std::fs::remove_file(f.file("site/00000.etoks")).unwrap();
    assert!(f.bad("decode site/index.json y.y4m", 3, "").contains("00000.etoks"));
    std::fs::write(f.file("site/index.json"), b"{}").unwrap();
    assert!(f.bad("decode site/index.json z.y4m", 3, "z.y4m").contains("media index"));
    if has("souphttpsrc") {
        let server = Server::new(f.0.clone(), true, 0);
        assert!(f.bad(&format!("play {}/no.json --sink fakesink", server.address), 3, "").contains("404"));
    }
    assert!(f.bad("play site/index.json --bitrate 0 --sink fakesink", 2, "").contains("auto"));
}
