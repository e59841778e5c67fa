//! TLS against real servers: who is trusted, who is not, and what is said about it.

use keyferry_client::{ConnectOptions, Connection, Error, TlsOptions};
use keyferry_testkit::{Certs, Server, ServerBinary, all};

use crate::peer::impatient;

/// The servers on this machine that can do TLS.
fn servers(certs: &Certs) -> Vec<(&'static ServerBinary, Server)> {
    let start = |binary| match Server::builder(binary).tls(certs).start() {
        Ok(server) => Some((binary, server)),
        Err(keyferry_testkit::Error::NoTls { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    let servers: Vec<_> = all().unwrap().iter().filter_map(start).collect();
    assert!(!servers.is_empty(), "no server on this machine can do TLS");
    servers
}

fn options(server: &Server, tls: TlsOptions) -> ConnectOptions {
    ConnectOptions::tcp("127.0.0.1", server.tls_port().unwrap()).with_tls(tls)
}

async fn works(options: &ConnectOptions) {
    let mut connection =
        Connection::connect(options).await.unwrap_or_else(|error| panic!("{options}: {error}"));
    let payload = vec![b'x'; 3 << 20];
    let reply = connection.call([b"ECHO", payload.as_slice()]).await.unwrap();
    assert_eq!(reply.as_bytes().unwrap(), &payload[..]);
}

/// Says what the error says, having checked that it is one of TLS.
async fn refused(options: &ConnectOptions) -> String {
    match Connection::connect(options).await {
        Ok(_) => panic!("{options} was accepted"),
        Err(error @ Error::Tls { .. }) => {
            assert!(!error.is_retryable());
            error.to_string()
        }
        Err(other) => panic!("{options}: {other:?}"),
    }
}

#[tokio::test]
async fn who_is_trusted() {
    let certs = Certs::generate().unwrap();
    for (_, server) in servers(&certs) {
        let ca = || TlsOptions::new().with_ca_file(&certs.ca);
        works(&options(&server, ca())).await;
        works(&options(&server, TlsOptions::new().with_ca_pem(std::fs::read(&certs.ca).unwrap()))).await;
        works(&options(&server, ca().with_server_name("localhost"))).await;
        works(&options(&server, TlsOptions::new().with_any_certificate_accepted())).await;
        let url = format!("rediss://localhost:{}?ca={}", server.tls_port().unwrap(), certs.ca.display());
        works(&url.parse().unwrap()).await;

        let text = refused(&options(&server, TlsOptions::new().with_ca_file(&certs.other_ca))).await;
        assert!(text.contains("no authority trusted here") && text.contains("ca=FILE"), "{text}");
        let text = refused(&options(&server, ca().with_server_name("db.example"))).await;
        assert!(text.contains("not for db.example") && text.contains("localhost"), "{text}");
        assert!(text.contains("sni=NAME"), "{text}");
        let text = refused(&options(&server, ca().with_server_name("10.1.2.3"))).await;
        assert!(text.contains("10.1.2.3"), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let certs = Certs::generate().unwrap();
    let (binary, _) = servers(&certs).remove(0);
    let server = Server::builder(binary).tls_with(&certs.ca, &certs.wrong_name).start().unwrap();
    let ca = || TlsOptions::new().with_ca_file(&certs.ca);
    let text = refused(&options(&server, ca())).await;
    assert!(text.contains("not for 127.0.0.1") && text.contains("elsewhere.example"), "{text}");
    works(&options(&server, ca().with_server_name("elsewhere.example"))).await;
}

#[tokio::test]
async fn servers_that_want_a_client_certificate() {
    let certs = Certs::generate().unwrap();
    for (binary, server) in servers(&certs) {
        drop(server);
        let server = Server::builder(binary).tls(&certs).tls_client_certs().start().unwrap();
        let ca = || TlsOptions::new().with_ca_file(&certs.ca);
        let client = &certs.client;
        works(&options(&server, ca().with_client_certificate_files(&client.cert, &client.key))).await;
        let pem = |path| std::fs::read(path).unwrap();
        works(&options(&server, ca().with_client_certificate_pem(pem(&client.cert), pem(&client.key)))).await;
        let text = refused(&options(&server, ca())).await;
        assert!(text.contains("client certificate") && text.contains("cert=FILE"), "{} {text}", binary.name);
        // Signed by the right authority, but not made for clients.
        let server_only = &certs.wrong_name;
        let text = refused(&options(
            &server,
            ca().with_client_certificate_files(&server_only.cert, &server_only.key),
        ))
        .await;
        assert!(text.contains("refuses the client certificate"), "{} {text}", binary.name);
    }
}

#[tokio::test]
async fn the_wrong_kind_of_port() {
    let certs = Certs::generate().unwrap();
    for (binary, server) in servers(&certs) {
        // Plain text to a TLS port.
        let plain = impatient(ConnectOptions::tcp("127.0.0.1", server.tls_port().unwrap()));
        let error = Connection::connect(&plain).await.unwrap_err();
        assert!(error.to_string().contains("rediss://"), "{} {error}", binary.name);
        // TLS to a plain port: some servers answer, some wait for a line end.
        let ours = TlsOptions::new().with_ca_file(&certs.ca);
        let tls = impatient(ConnectOptions::tcp("127.0.0.1", server.port())).with_tls(ours);
        let error = Connection::connect(&tls).await.unwrap_err();
        assert!(error.to_string().contains("redis://"), "{} {error}", binary.name);
    }
}

#[tokio::test]
async fn files_that_cannot_be_used() {
    let certs = Certs::generate().unwrap();
    let (_, server) = servers(&certs).remove(0);
    let ca = || TlsOptions::new().with_ca_file(&certs.ca);
    for (tls, words) in [
        (TlsOptions::new().with_ca_file("/no/such/ca.pem"), "/no/such/ca.pem"),
        (TlsOptions::new().with_ca_file(&certs.client.key), "no certificate in it"),
        (TlsOptions::new().with_ca_pem("hello"), "no certificate in it"),
        (ca().with_client_certificate_files(&certs.client.cert, "/no/such/key.pem"), "/no/such/key.pem"),
        (ca().with_client_certificate_files(&certs.client.cert, &certs.client.cert), "private key"),
        (ca().with_client_certificate_files(&certs.client.cert, &certs.server.key), "private key"),
        (ca().with_server_name("not a name"), "neither a host name nor an IP address"),
    ] {
        let error = Connection::connect(&options(&server, tls)).await.unwrap_err();
        assert!(matches!(error, Error::TlsSetup { .. }) && error.to_string().contains(words), "{error}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn halves_over_tls() {
    let certs = Certs::generate().unwrap();
    let (_, server) = servers(&certs).remove(0);
    let options = options(&server, TlsOptions::new().with_ca_file(&certs.ca));
    let (mut sender, mut receiver) = Connection::connect(&options).await.unwrap().split();
    let payload = "x".repeat(100_000);
    let command = keyferry_client::Command::new(["ECHO", &payload]);
    let writer = tokio::spawn(async move {
        for _ in 0..300 {
            sender.write_all(command.raw()).await.unwrap();
        }
        sender.flush().await.unwrap();
        sender
    });
    for _ in 0..300 {
        assert_eq!(receiver.next().await.unwrap().as_bytes().unwrap(), payload.as_bytes());
    }
    drop(writer.await.unwrap());
}
