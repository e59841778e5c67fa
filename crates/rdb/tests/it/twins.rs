//! The parser against its slow twin, and against itself for any cutting of the input.

use keyferry_rdb::{Error, Limits};
use proptest::prelude::*;

use crate::generate::snapshot;
use crate::naive::{self, NaiveKey};
use crate::support::{Outcome, keys, parse, parse_in, samples, server_made};

fn as_naive(outcome: &Outcome) -> Vec<NaiveKey> {
    keys(&outcome.events)
        .into_iter()
        .map(|(head, value)| NaiveKey {
            db: head.db,
            key: head.key,
            expiry: head.expiry,
            ty: head.ty.byte(),
            value,
        })
        .collect()
}

#[test]
fn agrees_with_the_twin_on_real_files() {
    let mut files: Vec<_> =
        samples().into_iter().filter(|s| s.kind.contains("rdb")).map(|s| (s.file, s.bytes)).collect();
    files.extend(server_made());
    for (file, bytes) in files {
        let outcome = parse(&bytes);
        let twin = naive::walk(&bytes);
        assert_eq!(outcome.result.is_ok(), twin.is_some(), "{file}: {:?}", outcome.result);
        if let Some((naive_keys, size)) = twin {
            assert_eq!(as_naive(&outcome), naive_keys, "{file}");
            assert_eq!(outcome.offset as usize, size, "{file}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_twin_on_generated_files(file in snapshot()) {
        let outcome = parse(&file);
        match naive::walk(&file) {
            Some((naive_keys, size)) => {
                prop_assert_eq!(&outcome.result, &Ok(()));
                prop_assert_eq!(as_naive(&outcome), naive_keys);
                prop_assert_eq!(outcome.offset as usize, size);
                prop_assert_eq!(&outcome.remaining, &file[size..]);
            }
            // The same number of a template twice, by chance.
            None => prop_assert!(matches!(outcome.result, Err(Error::Corrupt { .. })), "{:?}", outcome.result),
        }
    }

    #[test]
    fn any_cutting_gives_the_same(
        file in snapshot(),
        sizes in prop::collection::vec(1usize..200, 1..20),
        part in 64usize..300,
    ) {
        let mut limits = Limits::default();
        limits.value_part = part;
        let whole = parse_in(&file, &[usize::MAX], &limits);
        prop_assert_eq!(&parse_in(&file, &sizes, &limits), &whole);
        prop_assert_eq!(&parse_in(&file, &[1], &limits), &whole);
        prop_assert_eq!(keys(&whole.events), keys(&parse(&file).events));
    }
}
