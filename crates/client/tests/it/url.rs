//! Connection URLs: what they mean, what is refused, and that no password ever shows.

use std::time::Duration;

use keyferry_client::{Address, ConnectOptions, Protocol, URL_OPTIONS, UrlError};
use proptest::prelude::*;

fn parse(url: &str) -> ConnectOptions {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn refused(url: &str) -> UrlError {
    match ConnectOptions::from_url(url) {
        Ok(options) => panic!("{url} was taken as {options}"),
        Err(error) => error,
    }
}

#[test]
fn what_urls_mean() {
    // URL, what it is written back as, user, password
    for (url, shown, user, password) in [
        ("redis://h", "redis://h:6379", None, None),
        ("REDIS://h/", "redis://h:6379", None, None),
        ("redis://h:1/15", "redis://h:1/15", None, None),
        ("redis://h/?db=3", "redis://h:6379/3", None, None),
        ("redis://h?db=3", "redis://h:6379/3", None, None),
        ("valkey://h", "redis://h:6379", None, None),
        ("valkeys://h", "rediss://h:6379", None, None),
        ("rediss://h", "rediss://h:6379", None, None),
        ("redis://user@h", "redis://user@h:6379", Some("user"), None),
        ("redis://user:@h", "redis://user@h:6379", Some("user"), None),
        ("redis://:pw@h", "redis://:***@h:6379", None, Some(&b"pw"[..])),
        ("redis://user:pw@h", "redis://user:***@h:6379", Some("user"), Some(b"pw")),
        ("redis://u%40s:p%2Fw%00%ff@h", "redis://u%40s:***@h:6379", Some("u@s"), Some(b"p/w\x00\xff")),
        // Not ambiguous, so taken as meant.
        ("redis://user:p@ss:w@h", "redis://user:***@h:6379", Some("user"), Some(b"p@ss:w")),
        ("redis://[::1]", "redis://[::1]:6379", None, None),
        (
            "redis://user:pw@[fe80::1%25eth0]:7000",
            "redis://user:***@[fe80::1%25eth0]:7000",
            Some("user"),
            Some(b"pw"),
        ),
        ("redis://10.0.0.7:7000", "redis://10.0.0.7:7000", None, None),
        ("redis://my_redis-1.internal", "redis://my_redis-1.internal:6379", None, None),
        ("unix:///run/redis.sock", "unix:///run/redis.sock", None, None),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2", None, None),
        (
            "unix://user:pw@/run/my%20redis@x.sock",
            "unix://user:***@/run/my%20redis%40x.sock",
            Some("user"),
            Some(b"pw"),
        ),
        ("redis://h?protocol=3", "redis://h:6379?protocol=3", None, None),
        ("redis://h?protocol=2&client-name=mover", "redis://h:6379?client-name=mover", None, None),
        (
            "redis://h?connect-timeout=500ms&read-timeout=2m&write-timeout=none",
            "redis://h:6379?connect-timeout=500ms&read-timeout=120s&write-timeout=none",
            None,
            None,
        ),
        (
            "rediss://h?ca=/a/b.pem&cert=c%20d.pem&key=k.pem&sni=other&insecure=true",
            "rediss://h:6379?ca=/a/b.pem&cert=c%20d.pem&key=k.pem&sni=other&insecure=true",
            None,
            None,
        ),
    ] {
        let options = parse(url);
        assert_eq!(options.to_string(), shown, "{url}");
        assert_eq!(options.username(), user, "{url}");
        assert_eq!(options.password().map(|password| password.expose()), password, "{url}");
        // What is written means the same, but for the password.
        assert_eq!(parse(shown).to_string(), shown);
    }
}

#[test]
fn addresses_timeouts_and_defaults() {
    let options = parse("redis://[::1]:7000");
    assert_eq!(options.address(), &Address::tcp("::1", 7000));
    assert_eq!(options.address().to_string(), "[::1]:7000");
    assert_eq!(parse("unix:///tmp/a%25b").address(), &Address::Unix("/tmp/a%b".into()));
    assert_eq!(options.connect_timeout(), Some(Duration::from_secs(10)));
    assert_eq!(options.read_timeout(), Some(Duration::from_secs(60)));
    assert_eq!(options.protocol(), Protocol::Resp2);
    let options = parse("rediss://h?read-timeout=250ms&connect-timeout=1h&write-timeout=none&protocol=3");
    assert_eq!(options.read_timeout(), Some(Duration::from_millis(250)));
    assert_eq!(options.connect_timeout(), Some(Duration::from_secs(3600)));
    assert_eq!(options.write_timeout(), None);
    assert_eq!(options.protocol(), Protocol::Resp3);
    assert!(options.tls().is_some_and(|tls| tls.verifies()));
    assert!(parse("rediss://h?insecure=true").tls().is_some_and(|tls| !tls.verifies()));
    assert!(parse("rediss://h?insecure=false").tls().is_some_and(|tls| tls.verifies()));
}

#[test]
fn what_is_refused_and_why() {
    for (url, words) in [
        ("", "begins with redis://"),
        ("h:6379", "begins with redis://"),
        ("http://h", "begins with redis://"),
        ("redis:/h", "begins with redis://"),
        ("redis://", "no usable host"),
        ("redis://:pw@", "no usable host"),
        ("redis:///0", "no usable host"),
        ("redis://a b", "no usable host"),
        ("redis://[::1", "no usable host"),
        ("redis://[hello]", "no usable host"),
        ("redis://[::1%25]", "no usable host"),
        ("redis://::1", "no usable host"),
        ("redis://h:", "port"),
        ("redis://h:0", "port"),
        ("redis://h:65536", "port"),
        ("redis://h:+1", "port"),
        ("redis://[::1]x", "port"),
        ("redis://h/x", "database number"),
        ("redis://h/-1", "database number"),
        ("redis://h/+1", "database number"),
        ("redis://h/1/2", "database number"),
        ("redis://h/4294967296", "database number"),
        ("redis://h/1?db=1", "gives the database twice"),
        ("redis://h?db=x", "db: expected a database number"),
        ("redis://h?db=1&db=1", "db is given more than once"),
        ("redis://h#x", "'#'"),
        ("redis://%zz@h", "user name holds a percent sign"),
        ("redis://%ff@h", "user name holds a percent sign"),
        ("redis://:%4@h", "password holds a percent sign"),
        ("redis://h?client-name=%", "percent sign"),
        ("redis://h?client-name=a%20b", "without blanks"),
        ("redis://h?client-name=", "without blanks"),
        ("redis://h?protocol=4", "protocol: expected 2 or 3"),
        ("redis://h?read-timeout=5", "read-timeout: expected a time"),
        ("redis://h?read-timeout=0s", "read-timeout: expected a time"),
        ("redis://h?read-timeout=-5s", "read-timeout: expected a time"),
        ("redis://h?read-timeout=5d", "read-timeout: expected a time"),
        ("redis://h?read-timeout=99999999999999999h", "read-timeout: expected a time"),
        (
            "redis://h?tiemout=5s",
            "unknown URL option \"tiemout\"; known are address-map, ca, cert, client-name",
        ),
        ("redis://h?password=pw", "unknown URL option \"password\""),
        ("redis://h?ca=x", "scheme is not: use rediss://"),
        ("redis://h?insecure=true", "scheme is not: use rediss://"),
        ("rediss://h?insecure=yes", "insecure: expected true or false"),
        ("rediss://h?cert=x", "cert needs key"),
        ("rediss://h?key=x", "key needs cert"),
        ("rediss://h?sni=a%20b", "sni: expected a host name"),
        ("redis://:pw@h?password-env=X", "gives the password twice"),
        ("redis://h?password-file=X&password-env=X", "gives the password twice"),
        ("redis://h?password-env=KEYFERRY_TEST_NO_SUCH_VARIABLE", "KEYFERRY_TEST_NO_SUCH_VARIABLE"),
        ("redis://h?password-file=/no/such/file", "/no/such/file"),
        ("unix://", "absolute path"),
        ("unix://run/x", "absolute path"),
        ("unix:///", "absolute path"),
        ("unix:///a%00b", "absolute path"),
        ("unix:///a?ca=x", "scheme is not: use rediss://"),
    ] {
        let message = refused(url).to_string();
        assert!(message.contains(words), "{url}: {message}");
    }
}

#[test]
fn passwords_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret file");
    std::fs::write(&path, "s3cret\n").unwrap();
    let url = format!("redis://user@h?password-file={}", path.display().to_string().replace(' ', "%20"));
    let options = parse(&url);
    assert_eq!(options.password().unwrap().expose(), b"s3cret");
    assert_eq!(options.to_string(), "redis://user:***@h:6379");
    // Every test run has this variable; what is in it does not matter.
    let options = parse("redis://h?password-env=PATH");
    assert_eq!(options.password().unwrap().expose(), std::env::var("PATH").unwrap().as_bytes());
    assert!(!format!("{options:?} {options}").contains(&std::env::var("PATH").unwrap()));
}

#[test]
fn every_option_is_known_and_listed() {
    let message = refused("redis://h?x=1").to_string();
    for name in URL_OPTIONS {
        assert!(message.contains(name), "{name}");
        assert!(!matches!(
            ConnectOptions::from_url(&format!("rediss://h?{name}=")),
            Err(UrlError::UnknownOption { .. })
        ));
    }
}

/// Passwords with every character that means something in a URL, long enough not to be found by chance.
fn password() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9:/?#@%&=+ \\[\\]é.$-]{6,20}"
}

/// No piece of the password, cut where a URL could be cut, may show.
fn shows(text: &str, password: &str) -> Option<String> {
    password
        .split(['/', '?', '#', '@', ':', '&', '=', '%', ']', '['])
        .filter(|piece| piece.len() >= 6)
        .chain([password])
        .find(|piece| text.contains(*piece))
        .map(str::to_owned)
}

proptest! {
    #[test]
    fn encoded_passwords_arrive_and_never_show(password in password(), tls: bool) {
        let encoded: String = password.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let url = format!("{}://user:{encoded}@h:7000/1", if tls { "rediss" } else { "redis" });
        let options = parse(&url);
        prop_assert_eq!(options.password().unwrap().expose(), password.as_bytes());
        prop_assert_eq!(shows(&format!("{options:?} {options:#?} {options}"), &password), None);
    }

    #[test]
    fn bare_passwords_never_show_whatever_becomes_of_the_url(
        password in password(), prefix in "(redis|rediss|unix)://(user)?:", suffix in "(@h(:70)?(/1)?(\\?db=2|\\?nonsense=1)?|@/sock|)",
    ) {
        let url = format!("{prefix}{password}{suffix}");
        let text = match ConnectOptions::from_url(&url) {
            Ok(options) => format!("{options:?} {options}"),
            Err(error) => format!("{error} {error:?}"),
        };
        // Without an @ there is no password in the URL's grammar: what stands there is a host, a port, a path.
        if suffix.contains('@') {
            prop_assert_eq!(shows(&text, &password), None, "{} of {}", text, url);
        }
    }

    #[test]
    fn any_text_is_taken_or_refused(text in "\\PC{0,60}", scheme in "(|redis|rediss|unix)") {
        for url in [text.clone(), format!("{scheme}://{text}")] {
            if let Ok(options) = ConnectOptions::from_url(&url) {
                let shown = options.to_string();
                prop_assert_eq!(parse(&shown).to_string(), shown);
            }
        }
    }
}
