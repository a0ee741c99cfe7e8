//! Providers as foreign servers: options, secrets, and one question over HTTP.

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

/// A fake provider on loopback: answers one request with these bytes and hands back what it was sent.
fn fake_provider(answer: &'static str) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap().port(), answer_one(listener, answer))
}

/// Reads before it answers: a client takes an answer that comes before its request for a broken connection.
fn answer_one(listener: TcpListener, answer: &'static str) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    })
}

fn provider(client: &mut Client, port: u16) {
    let sql = format!(
        "CREATE SERVER trainer FOREIGN DATA WRAPPER pg_finetune OPTIONS (protocol 'openai', base_url 'http://127.0.0.1:{port}/v1');
         CREATE USER MAPPING FOR postgres SERVER trainer OPTIONS (api_key 'sk-canary')"
    );
    client.batch_execute(&sql).unwrap();
}

#[test]
fn an_answer_is_shown_and_the_key_sent() {
    let db = Server::shared().create_database("answer");
    drop(db.install("pgft"));
    let (mut client, notices) = db.connect_collecting();
    client.batch_execute("SET search_path = pgft, public").unwrap();
    let (port, serving) = fake_provider("HTTP/1.1 200 OK\r\ncontent-length: 38\r\nconnection: close\r\n\r\n{\"data\":[{\"id\":\"small\"},{\"id\":\"big\"}]}");
    provider(&mut client, port);
    client.batch_execute("CALL check_provider('trainer')").unwrap();
    assert!(notices.lock().unwrap().iter().any(|notice| notice.contains("2 models: small, big")), "{notices:?}");
    let request = serving.join().unwrap();
    assert!(request.starts_with("GET /v1/models HTTP/1.1"), "{request}");
    assert!(request.contains("authorization: Bearer sk-canary"), "{request}");
}

#[test]
fn a_refusal_that_echoes_the_key_does_not_show_it() {
    let db = Server::shared().create_database("echo");
    let mut client = db.install("pgft");
    let (port, serving) =
        fake_provider("HTTP/1.1 401 No\r\ncontent-length: 45\r\nconnection: close\r\n\r\n{\"error\":{\"message\":\"wrong key: sk-canary\"}}  ");
    provider(&mut client, port);
    let error = assert_error!(client, "CALL check_provider('trainer')", "HV00M", "401", "wrong key: ********");
    assert!(!format!("{error:?}").contains("canary"));
    serving.join().unwrap();
}

#[test]
fn nobody_there() {
    let db = Server::shared().create_database("nobody");
    let mut client = db.install("pgft");
    provider(&mut client, 1);
    assert_error!(client, "CALL check_provider('trainer')", "HV00N", "127.0.0.1:1", "refused");
    assert_error!(client, "CALL check_provider('nope')", "42704", "nope");
    client.batch_execute("SELECT pause_worker()").unwrap();
}

#[test]
fn options_are_checked_and_never_repeated() {
    let db = Server::shared().create_database("options");
    let mut client = db.install("pgft");
    let create = "CREATE SERVER s FOREIGN DATA WRAPPER pg_finetune OPTIONS";
    assert_error!(client, &format!("{create} (protcol 'openai')"), "HV00D", "Perhaps you meant \"protocol\"");
    assert_error!(client, &format!("{create} (protocol 'openai')"), "HV00J", "base_url");
    let error =
        assert_error!(client, &format!("{create} (protocol 'openai', base_url 'sk-canary')"), "HV00A", "https://");
    assert!(!format!("{error:?}").contains("canary"));
    assert_error!(
        client,
        &format!("{create} (protocol 'openai', base_url 'https://a', api_key 'sk-canary')"),
        "HV00D",
        "USER MAPPING"
    );
    client.batch_execute(&format!("{create} (protocol 'openai', base_url 'https://example.com/v1')")).unwrap();
    let table = "CREATE FOREIGN TABLE t (a int) SERVER s";
    assert_eq!(expect_error(&mut client, &format!("{table} OPTIONS (x 'y')")).code, "0A000");

    let admin = Server::shared().create_role("ml", &["finetune_admin"]);
    client.batch_execute(&format!("GRANT USAGE ON FOREIGN SERVER s TO {admin}")).unwrap();
    let mut admin = db.connect_as(&admin);
    assert_error!(
        admin,
        "CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (api_key_file '/etc/passwd')",
        "42501",
        "superuser"
    );
    admin.batch_execute("CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (api_key 'sk-1')").unwrap();
}

#[test]
fn a_key_goes_to_the_address_that_it_was_stored_for() {
    let db = Server::shared().create_database("moved");
    let mut client = db.install("pgft");
    provider(&mut client, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let nobody_asked = || assert!(listener.accept().is_err(), "something was sent");
    let moved = |client: &mut Client, port: u16, path: &str| {
        execute(client, &format!("ALTER SERVER trainer OPTIONS (SET base_url 'http://127.0.0.1:{port}{path}')"));
    };
    moved(&mut client, port, "/v1");
    let submit = "SELECT fine_tune('none', provider => 'trainer', base_model => 'small', method => 'sft')";
    let origins = [
        format!("http://127.0.0.1:{port}"),
        "http://127.0.0.1:1,".to_string(),
        "ALTER USER MAPPING FOR postgres".to_string(),
    ];
    execute(&mut client, "INSERT INTO dataset (name, version, positive, seed, examples, users, report, digest) VALUES ('none', 1, '{saved}', 1, 0, 0, '{}', '')");
    for ask in ["CALL check_provider('trainer')", submit] {
        assert_error!(client, ask, "42501", &origins[0], &origins[1], &origins[2]);
    }
    nobody_asked();

    // Only whoever has the key can say that it may go there; a no-op is not enough.
    let admin = Server::shared().create_role("owner", &["finetune_admin"]);
    execute(&mut client, &format!("GRANT USAGE ON SCHEMA pgft TO {admin}; ALTER SERVER trainer OWNER TO {admin}"));
    let mut owner = db.connect_as(&admin);
    execute(&mut owner, "SET search_path = pgft, public");
    let address = format!("UPDATE key_origin SET origin = 'http://127.0.0.1:{port}'");
    for forged in
        [address.as_str(), "DELETE FROM key_origin", "INSERT INTO key_origin VALUES ('other', 'postgres', 'http://x')"]
    {
        assert_error!(owner, forged, "42501", "may not act for \"postgres\"");
    }
    assert_eq!(
        expect_error(&mut owner, "ALTER USER MAPPING FOR postgres SERVER trainer OPTIONS (DROP api_key)").code,
        "HV00J"
    );
    execute(&mut owner, "ALTER SERVER trainer RENAME TO renamed");
    assert_error!(client, "CALL check_provider('renamed')", "42501", "a server of another name");
    execute(&mut owner, "ALTER SERVER renamed RENAME TO trainer");
    nobody_asked();

    execute(&mut client, "ALTER USER MAPPING FOR postgres SERVER trainer OPTIONS (SET api_key 'sk-canary'); ALTER SERVER trainer OWNER TO postgres");
    moved(&mut client, port, "/other/path"); // the same door
    listener.set_nonblocking(false).unwrap();
    let serving =
        answer_one(listener, "HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{\"data\":[]}");
    execute(&mut client, "CALL check_provider('trainer')");
    assert!(serving.join().unwrap().contains("authorization: Bearer sk-canary"));

    // A restored copy knows it, too.
    let copy = Server::shared().create_database("moved_copy");
    db.restore_into(&copy);
    let mut restored = copy.connect();
    let stored: String =
        value(&mut restored, "SELECT origin FROM pgft.key_origin WHERE provider = 'trainer' AND owner = 'postgres'");
    assert_eq!(stored, format!("http://127.0.0.1:{port}"));
}
