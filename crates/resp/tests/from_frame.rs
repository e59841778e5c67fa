//! Replies into types.
#![cfg(feature = "serde")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::collections::{BTreeMap, HashMap};

use bytes::BytesMut;
use keyferry_resp::{Decoder, FromFrameError, from_frame};
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned>(wire: &str) -> Result<T, FromFrameError> {
    from_frame(Decoder::new().decode(&mut BytesMut::from(wire)).unwrap().unwrap())
}

fn message<T: DeserializeOwned + std::fmt::Debug>(wire: &str) -> String {
    read::<T>(wire).unwrap_err().to_string()
}

#[derive(Debug, Deserialize, PartialEq)]
struct Module {
    name: String,
    ver: u32,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Hello {
    server: String,
    proto: u8,
    id: u64,
    mode: Mode,
    #[serde(default)]
    availability_zone: Option<String>,
    modules: Vec<Module>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Standalone,
    Cluster,
}

#[test]
fn a_struct_from_resp3_and_resp2() {
    let hello = Hello {
        server: "redis".into(),
        proto: 3,
        id: 48,
        mode: Mode::Cluster,
        availability_zone: None,
        modules: vec![Module { name: "vectorset".into(), ver: 1 }],
    };
    let resp3 = "%6\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:48\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n\
                 $6\r\nmaster\r\n$7\r\nmodules\r\n*1\r\n%2\r\n$4\r\nname\r\n$9\r\nvectorset\r\n$3\r\nver\r\n:1\r\n";
    let resp2 = "*12\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n$1\r\n3\r\n$2\r\nid\r\n:48\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n\
                 $6\r\nmaster\r\n$7\r\nmodules\r\n*1\r\n*4\r\n$4\r\nname\r\n$9\r\nvectorset\r\n$3\r\nver\r\n:1\r\n";
    assert_eq!(read::<Hello>(resp3).unwrap(), hello);
    assert_eq!(read::<Hello>(resp2).unwrap(), hello);
}

#[test]
fn scalars() {
    assert_eq!(read::<i64>(":-5\r\n").unwrap(), -5);
    assert_eq!(read::<u8>("$3\r\n255\r\n").unwrap(), 255);
    assert_eq!(read::<u64>("$20\r\n18446744073709551615\r\n").unwrap(), u64::MAX);
    assert_eq!(read::<i128>("(-170141183460469231731687303715884105728\r\n").unwrap(), i128::MIN);
    assert_eq!(read::<u128>("(340282366920938463463374607431768211455\r\n").unwrap(), u128::MAX);
    assert_eq!(read::<i32>("#t\r\n").unwrap(), 1);
    assert_eq!(read::<f64>("$3\r\n0.1\r\n").unwrap(), 0.1);
    assert_eq!(read::<f64>(",-inf\r\n").unwrap(), f64::NEG_INFINITY);
    assert_eq!(read::<f32>(":3\r\n").unwrap(), 3.0);
    for truth in ["#t\r\n", ":1\r\n", "$3\r\nyes\r\n", "$1\r\n1\r\n", "+true\r\n"] {
        assert!(read::<bool>(truth).unwrap(), "{truth}");
    }
    assert!(!read::<bool>("$2\r\nno\r\n").unwrap());
    assert_eq!(read::<String>("=7\r\ntxt:foo\r\n").unwrap(), "foo");
    assert_eq!(read::<String>(":12\r\n").unwrap(), "12");
    assert_eq!(read::<String>(",0.5\r\n").unwrap(), "0.5");
    assert_eq!(read::<char>("$1\r\nx\r\n").unwrap(), 'x');
    read::<()>("+OK\r\n").unwrap();
    read::<()>("*-1\r\n").unwrap();
    for null in ["_\r\n", "$-1\r\n", "*-1\r\n"] {
        assert_eq!(read::<Option<String>>(null).unwrap(), None);
        assert_eq!(read::<Option<Vec<u8>>>(null).unwrap(), None);
    }
    assert_eq!(read::<Option<i64>>("|1\r\n+a\r\n+b\r\n:1\r\n").unwrap(), Some(1));
}

/// What types that want bytes do.
#[derive(Debug, PartialEq)]
struct Blob(Vec<u8>);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

#[test]
fn bytes_and_collections() {
    let mut wire = BytesMut::from(&b"*2\r\n$3\r\n\xff\0\xfe\r\n+x\r\n"[..]);
    let frame = Decoder::new().decode(&mut wire).unwrap().unwrap();
    assert_eq!(from_frame::<Vec<Blob>>(frame).unwrap(), [Blob(vec![255, 0, 254]), Blob(b"x".to_vec())]);

    assert_eq!(read::<Vec<i64>>("~2\r\n:1\r\n:2\r\n").unwrap(), [1, 2]);
    assert_eq!(read::<(String, i64)>("*2\r\n+a\r\n:2\r\n").unwrap(), ("a".into(), 2));
    let expected = BTreeMap::from([("a".to_owned(), 1.5), ("b".to_owned(), f64::INFINITY)]);
    for wire in [
        "%2\r\n+a\r\n,1.5\r\n+b\r\n,inf\r\n",
        "*4\r\n+a\r\n$3\r\n1.5\r\n+b\r\n$3\r\ninf\r\n",
        "*2\r\n*2\r\n+a\r\n,1.5\r\n*2\r\n+b\r\n,inf\r\n",
    ] {
        assert_eq!(read::<BTreeMap<String, f64>>(wire).unwrap(), expected, "{wire}");
    }
    // Order and duplicates, for those who want them.
    assert_eq!(
        read::<Vec<(String, i64)>>("%2\r\n+b\r\n:1\r\n+b\r\n:2\r\n").unwrap(),
        [("b".to_owned(), 1), ("b".to_owned(), 2)]
    );
    assert_eq!(read::<HashMap<String, i64>>("*0\r\n").unwrap().len(), 0);
    // Keys that are numbers.
    assert_eq!(
        read::<HashMap<u16, bool>>("%1\r\n$3\r\n700\r\n#f\r\n").unwrap(),
        HashMap::from([(700, false)])
    );
}

#[test]
fn enums() {
    #[derive(Debug, Deserialize, PartialEq)]
    enum Event {
        Ready,
        Moved(u16),
        Range(u16, u16),
        Node { host: String, port: u16 },
    }
    assert_eq!(read::<Event>("+Ready\r\n").unwrap(), Event::Ready);
    assert_eq!(read::<Event>("*2\r\n+Moved\r\n:7\r\n").unwrap(), Event::Moved(7));
    assert_eq!(read::<Event>("%1\r\n+Range\r\n*2\r\n:1\r\n:2\r\n").unwrap(), Event::Range(1, 2));
    assert_eq!(
        read::<Event>("%1\r\n+Node\r\n*4\r\n+port\r\n:1\r\n+host\r\n+h\r\n").unwrap(),
        Event::Node { host: "h".into(), port: 1 }
    );
    assert!(message::<Event>("+Moved\r\n").contains("content"));
    assert!(message::<Event>("+Nope\r\n").contains("Nope"));
    assert!(message::<Event>("*2\r\n+Ready\r\n:1\r\n").contains("without content"));
}

#[test]
fn an_untyped_value() {
    let json: serde_json::Value =
        read("%2\r\n+a\r\n*3\r\n:1\r\n_\r\n#t\r\n+b\r\n%1\r\n$1\r\nc\r\n,0.5\r\n").unwrap();
    assert_eq!(json, serde_json::json!({"a": [1, null, true], "b": {"c": 0.5}}));
}

#[test]
fn errors_name_the_place() {
    assert_eq!(message::<String>("-ERR no\r\n"), "the server answered ERR no");
    assert_eq!(message::<Vec<String>>("*2\r\n+OK\r\n-OOM full\r\n"), "the server answered OOM full (at [1])");
    assert_eq!(
        message::<Vec<Module>>("*1\r\n%2\r\n+name\r\n+x\r\n+ver\r\n+one\r\n"),
        "expected an integer, the server sent a status (at [0].ver)"
    );
    assert_eq!(message::<String>("*0\r\n"), "expected a string, the server sent an array");
    assert_eq!(message::<Vec<i64>>(":1\r\n"), "expected an array, the server sent an integer");
    assert_eq!(message::<HashMap<String, i64>>("*1\r\n:1\r\n"), "expected a map, the server sent an array");
    assert!(message::<u8>(":256\r\n").contains("256"));
    for text in ["012", "+1", "-", "", "1.0", "-012"] {
        let message = message::<i64>(&format!("${}\r\n{text}\r\n", text.len()));
        assert_eq!(message, "expected an integer, the server sent a string", "{text}");
    }
    assert_eq!(message::<(i64, i64)>("*3\r\n:1\r\n:2\r\n:3\r\n"), "1 elements are left over");
    assert!(message::<(i64, i64)>("*1\r\n:1\r\n").contains("tuple of size 2"));
    assert!(message::<Module>("%2\r\n+name\r\n+a\r\n+name\r\n+b\r\n").contains("duplicate field"));
    let mut wire = BytesMut::from(&b"$1\r\n\xff\r\n"[..]);
    let frame = Decoder::new().decode(&mut wire).unwrap().unwrap();
    assert!(from_frame::<String>(frame).unwrap_err().to_string().contains("not UTF-8"));
    // An error that nobody looks at does no harm.
    assert_eq!(
        read::<Module>("%3\r\n+name\r\n+a\r\n+ver\r\n:1\r\n+x\r\n-ERR y\r\n").unwrap(),
        Module { name: "a".into(), ver: 1 }
    );
}
