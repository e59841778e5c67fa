//! `MSETEX`, which one kind of server does not check.

use keyferry_resp::Command;

/// `MSETEX numkeys key value … [NX|XX] [option]` as a `SET` of each key, in its order; none for what is not of this form.
///
/// Valkey 9.1 carries out `MSETEX` on any node of a cluster, and in any state of a slot, instead of telling who serves the
/// keys. `SET` is checked everywhere. A source passes on what it has done only, so its condition has held already.
pub(crate) fn as_sets(command: &Command) -> Option<Vec<Command>> {
    let args: Vec<&[u8]> = command.args().collect();
    let pairs: usize = std::str::from_utf8(args.get(1)?).ok()?.parse().ok()?;
    let end = pairs.checked_mul(2)?.checked_add(2)?;
    let (keys, options) = (args.get(2..end)?, args.get(end..)?);
    let is_condition = |arg: &&&[u8]| arg.eq_ignore_ascii_case(b"NX") || arg.eq_ignore_ascii_case(b"XX");
    let options: Vec<&[u8]> = options.iter().filter(|arg| !is_condition(arg)).copied().collect();
    let set = |pair: &[&[u8]]| Command::new([&[&b"SET"[..]], pair, &options[..]].concat());
    Some(keys.chunks_exact(2).map(set).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(command: &[&str]) -> Option<Vec<String>> {
        let text = |command: &Command| {
            command.args().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
        };
        as_sets(&Command::new(command)).map(|sets| sets.iter().map(text).collect())
    }

    #[test]
    fn each_key_is_set_with_the_options() {
        assert_eq!(sets(&["MSETEX", "1", "a", "1"]).unwrap(), ["SET a 1"]);
        let several = ["MSETEX", "2", "a", "1", "NX", "XX", "nx", "PXAT", "7"];
        assert_eq!(sets(&several).unwrap(), ["SET a 1 PXAT 7", "SET NX XX PXAT 7"]);
    }

    #[test]
    fn anything_else_is_told() {
        let wrong: [&[&str]; 4] = [
            &["MSETEX"],
            &["MSETEX", "-1", "a", "1"],
            &["MSETEX", "2", "a", "1"],
            &["MSETEX", "18446744073709551615", "a", "1"],
        ];
        wrong.into_iter().for_each(|command| assert_eq!(sets(command), None, "{command:?}"));
    }
}
