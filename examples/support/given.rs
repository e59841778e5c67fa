//! Which options somebody gave, so that none is accepted that means nothing where it stands.

use std::collections::BTreeSet;

use clap::{ArgMatches, Command, parser::ValueSource};

/// The options that were given: on the command line, in a file, or by a variable.
#[derive(Debug, Default)]
pub struct Given(BTreeSet<String>);

impl Given {
    /// Those of a command line that was parsed.
    #[must_use]
    pub fn of(matches: &ArgMatches, command: &Command) -> Self {
        let given = |id: &str| {
            matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        };
        let options = command.get_arguments().filter(|arg| given(arg.get_id().as_str()));
        Given(options.filter_map(|arg| arg.get_long()).map(str::to_owned).collect())
    }

    /// Whether one was given; without the `--`.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.0.contains(option)
    }

    /// The first of these that was given.
    #[must_use]
    pub fn first<'a>(&self, options: &[&'a str]) -> Option<&'a str> {
        options.iter().copied().find(|option| self.has(option))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Args {
        #[arg(long, default_value_t = 3)]
        some_limit: u64,
        #[arg(long)]
        keep: bool,
        #[arg(long)]
        list: Vec<String>,
    }

    #[test]
    fn what_is_as_it_is_by_default_was_not_given() {
        let given =
            |line: &str| Given::of(&Args::command().get_matches_from(line.split(' ')), &Args::command());
        let some = given("x --some-limit 3 --list=a");
        assert!(some.has("some-limit") && some.has("list") && !some.has("keep"));
        assert_eq!(some.first(&["keep", "list", "some-limit"]), Some("list"));
        assert_eq!(given("x --keep").first(&["some-limit", "list"]), None);
        assert!(Args::parse_from(["x", "--keep"]).keep);
    }
}
