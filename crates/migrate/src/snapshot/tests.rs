use keyferry_rdb::native::Features;
use keyferry_testkit::{Server, data};

use super::*;

fn encoder() -> SnapshotEncoder {
    let abilities = Abilities {
        replace: true,
        absolute_ttl: true,
        set_pxat: true,
        expire_gt: true,
        functions: true,
        key_metadata: true,
        native: Features::redis(8, 0),
        format: keyferry_rdb::TargetFormat::redis(8, 0),
    };
    SnapshotEncoder::new(abilities, "target".to_owned(), 500).dividing()
}

/// Encodes a snapshot that comes in small pieces; gives the commands, and each place up to which everything is whole with
/// how many bytes of commands that is.
fn encode(mut encoder: SnapshotEncoder, snapshot: &[u8]) -> (SnapshotEncoder, Vec<u8>, Vec<(u64, usize)>) {
    let (mut commands, mut places) = (Vec::new(), Vec::new());
    for piece in snapshot.chunks(97) {
        encoder.space(piece.len())[..piece.len()].copy_from_slice(piece);
        encoder.filled(piece.len());
        loop {
            let mut out = Output::default();
            let pumped = encoder.pump(&mut out).unwrap();
            commands.extend_from_slice(&out.bytes);
            if encoder.state.large.is_none() {
                places.push((encoder.whole(), commands.len()));
            }
            if pumped != Pumped::Full {
                break;
            }
        }
    }
    encoder.end_of_input().unwrap();
    (encoder, commands, places)
}

/// Wherever a run before was whole, another one gives the rest, and counts as if it had given all.
#[test]
fn a_snapshot_is_gone_on_with_where_it_was_whole() {
    let server = Server::any().unwrap();
    data::small(&mut server.client().unwrap(), 21, 2).unwrap();
    server.client().unwrap().call(&["SAVE"]).unwrap();
    let snapshot = std::fs::read(server.dir().join("dump.rdb")).unwrap();
    let (first, all, places) = encode(encoder(), &snapshot);
    assert!(first.counts().large > 10 && first.counts().total_keys() > 50, "{:?}", first.counts());
    let mut tried = 0;
    for &(place, given) in places.iter().step_by(1 + places.len() / 40) {
        let mut again = encoder();
        again.skip_to(place);
        let (again, rest, _) = encode(again, &snapshot);
        assert!(rest.ends_with(&all[given..]), "from {place}");
        // But for what is told to every node, which comes first and may be repeated.
        let repeated = rest.len() - (all.len() - given);
        assert!(
            repeated == 0 || String::from_utf8_lossy(&rest[..repeated]).contains("FUNCTION"),
            "from {place}"
        );
        assert_eq!(again.counts().total_keys(), first.counts().total_keys());
        assert_eq!(again.counts().large, first.counts().large);
        assert!(again.skipped() <= again.counts().total_keys());
        tried += usize::from(again.skipped() > 0);
    }
    assert!(tried > 20, "{tried}");
}
