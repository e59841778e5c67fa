//! URLs of clusters and sentinels, and what is found behind them.

use keyferry_client::{Address, ConnectOptions, Endpoint, Error, Mode, UrlError, detect};
use keyferry_testkit::{Cluster, Sentinels, Server, all, any};
use proptest::prelude::*;

use crate::chain;

fn parse(url: &str) -> Endpoint {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn what_urls_mean() {
    for (url, shown) in [
        ("redis://h/3", "redis://h:6379/3"),
        ("rediss://u:p@h", "rediss://u:***@h:6379"),
        ("unix:///a", "unix:///a"),
        ("redis+cluster://h", "redis+cluster://h:6379"),
        ("VALKEY+cluster://h/2", "redis+cluster://h:6379/2"),
        ("redis+cluster://h?db=2", "redis+cluster://h:6379/2"),
        (
            "rediss+cluster://user:p@ss,word@a:1,b,[::1]:3?ca=x.pem&read-timeout=5s",
            "rediss+cluster://user:***@a:1,b:6379,[::1]:3?ca=x.pem&read-timeout=5s",
        ),
        (
            "redis+cluster://a?address-map=10.0.0.1:7000%3db:1,[::1]=c",
            "redis+cluster://a:6379?address-map=10%2E0%2E0%2E1%3A7000%3Db%3A1%2C%5B%3A%3A1%5D%3Dc",
        ),
        ("redis+sentinel://h/mymaster", "redis+sentinel://h:26379/mymaster"),
        (
            "valkeys+sentinel://:pw@a,b:7/my%2Fservice/4?client-name=x",
            "rediss+sentinel://:***@a:26379,b:7/my%2Fservice/4?client-name=x",
        ),
        (
            "redis+sentinel://h/m?sentinel-tls=true&ca=x.pem&sentinel-user=watch",
            "redis+sentinel://h:26379/m?ca=x.pem&sentinel-tls=true&sentinel-user=watch",
        ),
        ("rediss+sentinel://h/m?sentinel-tls=false", "rediss+sentinel://h:26379/m?sentinel-tls=false"),
        ("rediss+sentinel://h/m?sentinel-tls=true", "rediss+sentinel://h:26379/m"),
    ] {
        let endpoint = parse(url);
        // What is encoded does not matter, but that it means the same.
        let plain = |text: &str| text.replace("%2E", ".").to_lowercase();
        assert_eq!(plain(&endpoint.to_string()), plain(shown), "{url}");
        assert_eq!(parse(shown).to_string(), endpoint.to_string());
    }
}

#[test]
fn sentinels_have_their_own_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "s3ntinel\n").unwrap();
    let endpoint = parse(&format!(
        "rediss+sentinel://u:d4ta@a,b/m/5?sentinel-user=watch&sentinel-password-file={}&read-timeout=5s",
        path.display()
    ));
    let Endpoint::Sentinel(sentinel) = &endpoint else { panic!("{endpoint}") };
    assert_eq!(sentinel.service(), "m");
    assert_eq!(sentinel.sentinels(), [Address::tcp("a", 26379), Address::tcp("b", 26379)]);
    let (asked, server) = (sentinel.sentinel(), sentinel.server());
    assert_eq!((asked.username(), asked.db()), (Some("watch"), 0));
    assert_eq!((server.username(), server.db()), (Some("u"), 5));
    assert_eq!(asked.password().unwrap().expose(), b"s3ntinel");
    assert_eq!(server.password().unwrap().expose(), b"d4ta");
    assert!(asked.tls().is_some() && server.tls().is_some());
    assert_eq!(asked.read_timeout(), server.read_timeout());
    let shown = format!("{endpoint} {endpoint:?} {endpoint:#?}");
    assert!(!shown.contains("s3ntinel") && !shown.contains("d4ta"), "{shown}");
    // Those of the servers are not shown to the sentinels.
    let Endpoint::Sentinel(sentinel) = parse("redis+sentinel://u:d4ta@a/m") else { panic!() };
    assert!(sentinel.sentinel().password().is_none() && sentinel.sentinel().username().is_none());
}

#[test]
fn addresses_are_mapped() {
    let endpoint = parse("redis+cluster://:pw@seed:1?address-map=10.0.0.1:7000=b:1,10.0.0.1=c,[::1]=[::2]");
    let Endpoint::Cluster(cluster) = endpoint else { panic!() };
    for (announced, reached) in [
        (Address::tcp("10.0.0.1", 7000), "b:1"),
        (Address::tcp("10.0.0.1", 7001), "c:7001"),
        (Address::tcp("::1", 1), "[::2]:1"),
        (Address::tcp("10.0.0.2", 7000), "10.0.0.2:7000"),
    ] {
        let options = cluster.at(&announced);
        assert_eq!(options.address().to_string(), reached);
        assert!(options.password().is_some());
    }
}

#[test]
fn what_is_refused_and_why() {
    for (url, words) in [
        ("redis+http://h", "begins with redis://"),
        ("unix+cluster:///a", "begins with redis://"),
        ("redis+cluster+tls://h", "begins with redis://"),
        ("redis+cluster://", "no usable host"),
        ("redis+cluster://a,", "no usable host"),
        ("redis+cluster://a,,b", "no usable host"),
        ("redis+cluster://a,b:0", "port"),
        ("redis+cluster://a/x", "database number"),
        ("redis+cluster://a/1?db=1", "gives the database twice"),
        ("redis+cluster://a?ca=x", "scheme is not"),
        ("redis+cluster://a?sentinel-user=x", "sentinel-user belongs to redis+sentinel:// URLs"),
        ("redis+cluster://a?address-map=a", "pairs FROM=TO"),
        ("redis+cluster://a?address-map=a=b:1", "pairs FROM=TO"),
        ("redis+cluster://a?address-map=", "pairs FROM=TO"),
        ("redis+cluster://:pw@a?password-env=PATH", "gives the password twice"),
        ("redis+sentinel://a", "names the service"),
        ("redis+sentinel://a/", "names the service"),
        ("redis+sentinel://a//1", "names the service"),
        ("redis+sentinel://a/m%20x", "names the service"),
        ("redis+sentinel://a/m/x", "database number"),
        ("redis+sentinel://a/m/1?db=1", "gives the database twice"),
        ("redis+sentinel://a/m?sentinel-tls=yes", "sentinel-tls: expected true or false"),
        ("rediss+sentinel://a/m?sentinel-tls=", "sentinel-tls: expected true or false"),
        ("redis+sentinel://a/m?ca=x", "scheme is not"),
        (
            "redis+sentinel://a/m?sentinel-password-env=X&sentinel-password-file=Y",
            "gives the password of the sentinels twice",
        ),
        ("redis+sentinel://a/m?sentinel-password-env=KEYFERRY_NO_SUCH", "KEYFERRY_NO_SUCH"),
        ("redis://a,b", "several hosts: write redis+cluster://"),
        ("redis://a?address-map=a=b", "address-map belongs to redis+cluster://"),
        ("redis://a?sentinel-tls=true", "sentinel-tls belongs to redis+sentinel://"),
    ] {
        match url.parse::<Endpoint>() {
            Ok(endpoint) => panic!("{url} was taken as {endpoint}"),
            Err(error) => assert!(error.to_string().contains(words), "{url}: {error}"),
        }
    }
    for url in ["redis+cluster://:pw@a", "redis+sentinel://:pw@a/m"] {
        let error = ConnectOptions::from_url(url).unwrap_err();
        assert!(
            matches!(error, UrlError::NotOneServer { .. }) && !error.to_string().contains("pw"),
            "{error}"
        );
    }
}

proptest! {
    #[test]
    fn bare_passwords_never_show(
        password in "[a-zA-Z0-9:/?#@%&=+, \\[\\]é.$-]{8,20}",
        prefix in "(redis|rediss)\\+(cluster|sentinel)://(user)?:",
        suffix in "@(h|a:1,b:2)(/m)?(/1)?(\\?db=2|\\?nonsense=1|\\?address-map=a=b)?",
    ) {
        let text = match format!("{prefix}{password}{suffix}").parse::<Endpoint>() {
            Ok(endpoint) => format!("{endpoint:?} {endpoint}"),
            Err(error) => format!("{error} {error:?}"),
        };
        let pieces = password.split(['/', '?', '#', '@', ':', '&', '=', '%', ']', '[', ',']);
        let shown = pieces.filter(|piece| piece.len() >= 8).chain([password.as_str()]).find(|p| text.contains(*p));
        prop_assert_eq!(shown, None, "{}", text);
    }

    #[test]
    fn any_text_is_taken_or_refused(
        text in "[a-c:,/?&=@%0-9\\[\\]]{0,40}", scheme in "(redis|rediss)\\+(cluster|sentinel)",
    ) {
        if let Ok(endpoint) = format!("{scheme}://{text}").parse::<Endpoint>() {
            let shown = endpoint.to_string();
            prop_assert_eq!(parse(&shown).to_string(), shown);
        }
    }
}

#[tokio::test]
async fn servers_say_what_they_are() {
    for binary in all().unwrap() {
        let plain = Server::builder(binary).start().unwrap();
        let node = Server::builder(binary).cluster().start().unwrap();
        let [plain, node] = [&plain, &node].map(|server| parse(&server.url()));
        assert_eq!(detect(plain.options()).await.unwrap(), Mode::Standalone, "{binary}");
        assert_eq!(detect(node.options()).await.unwrap(), Mode::Cluster, "{binary}");
        assert!(matches!(plain.detect().await.unwrap(), Endpoint::Standalone(_)));
        let seed = node.options().address().clone();
        match node.detect().await.unwrap() {
            Endpoint::Cluster(cluster) => assert_eq!(cluster.seeds(), [seed]),
            other => panic!("{binary}: {other}"),
        }
    }
    let group = Sentinels::builder(any().unwrap()).sentinels(1).start().unwrap();
    let error = parse(&group.sentinels()[0].url()).detect().await.unwrap_err();
    assert!(matches!(&error, Error::IsSentinel { .. }), "{error}");
    assert!(error.to_string().contains("redis+sentinel://127.0.0.1:"), "{error}");
    // A URL that says so is not asked.
    let unreachable = parse("redis+cluster://127.0.0.1:1");
    assert!(matches!(unreachable.detect().await, Ok(Endpoint::Cluster(_))));
}

#[tokio::test]
async fn urls_of_the_test_kit_are_read() {
    let cluster = Cluster::builder(any().unwrap()).primaries(2).password("p,@ss").start().unwrap();
    let Endpoint::Cluster(options) = parse(&cluster.url()) else { panic!() };
    assert_eq!(options.seeds().len(), 2);
    for seed in options.seeds() {
        keyferry_client::Connection::connect(&options.at(seed))
            .await
            .unwrap_or_else(|e| panic!("{}", chain(&e)));
    }
}
