//! `--config FILE` and `--print-config`: options from a TOML file, and as one.

use std::{collections::BTreeSet, path::Path, sync::OnceLock};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use keyferry_client::Endpoint;
use toml::{Table, Value};

/// Where options may be besides the command line.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// Take options from this TOML file, under the names that they have here, as in `source = "redis://old:6379"` or `keep = true`; what the
    /// command line or a variable says goes before it. Passwords: see password-env and password-file
    #[arg(long, value_name = "FILE.toml")]
    config: Option<std::path::PathBuf>,

    /// Print all options in the form of that file, passwords as ***, and do nothing
    #[arg(long)]
    pub print_config: bool,
}

/// The command line with what a file added to it.
static WORDS: OnceLock<Vec<String>> = OnceLock::new();

/// The command line of this program, with what a file added to it.
#[must_use]
pub fn words() -> Vec<String> {
    WORDS.get().cloned().unwrap_or_else(|| std::env::args().collect())
}

/// The command line with the options of the file that `--config` names; as it is without one.
///
/// # Errors
/// When the file cannot be read, is no TOML, or names an option that there is not.
pub fn with_config(args: Vec<String>, command: &Command) -> Result<Vec<String>, String> {
    let mut left = Vec::new();
    let mut file = None;
    let mut words = args.into_iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("--config") {
            Some("") => file = Some(words.next().ok_or("--config wants a file")?),
            Some(rest) if rest.starts_with('=') => file = Some(rest[1..].to_owned()),
            _ => left.push(word),
        }
    }
    let Some(file) = file else { return Ok(left) };
    let wrong = |what: String| format!("config {file}: {what}");
    let text = std::fs::read_to_string(Path::new(&file)).map_err(|e| wrong(e.to_string()))?;
    let table: Table = text.parse().map_err(|e: toml::de::Error| wrong(e.message().to_owned()))?;
    let words = added(&table, left, command).map_err(wrong)?;
    WORDS.get_or_init(|| words.clone());
    Ok(words)
}

/// The options of a table before those of the command line, which go before them.
fn added(table: &Table, args: Vec<String>, command: &Command) -> Result<Vec<String>, String> {
    let given: BTreeSet<&str> = args
        .iter()
        .filter_map(|word| word.strip_prefix("--"))
        .map(|word| word.split('=').next().unwrap_or(word))
        .collect();
    let mut words: Vec<String> = args.first().cloned().into_iter().collect();
    for (name, value) in table {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name.as_str()));
        let arg = arg.filter(|arg| !matches!(arg.get_long(), Some("config" | "print-config")));
        let arg = arg.ok_or_else(|| format!("there is no option \"{name}\" (see --help)"))?;
        let in_environment = arg.get_env().is_some_and(|variable| std::env::var_os(variable).is_some());
        if !given.contains(name.as_str()) && !in_environment {
            words.extend(option(name, value, arg)?);
        }
    }
    words.extend(args.into_iter().skip(1));
    Ok(words)
}

fn option(name: &str, value: &Value, arg: &Arg) -> Result<Vec<String>, String> {
    let wrong = |what: &str| Err(format!("\"{name}\" {what}"));
    if !arg.get_action().takes_values() {
        return match value {
            Value::Boolean(true) => Ok(vec![format!("--{name}")]),
            Value::Boolean(false) => Ok(Vec::new()),
            _ => wrong("is true or false"),
        };
    }
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        // An option that may stand alone.
        Value::Boolean(true) => Some("on".to_owned()),
        _ => None,
    };
    match value {
        Value::Array(values) => {
            let Some(values) = values.iter().map(text).collect::<Option<Vec<_>>>() else {
                return wrong("is a list of texts and numbers");
            };
            let repeats = matches!(arg.get_action(), ArgAction::Append);
            let several = arg.get_num_args().is_some_and(|count| count.max_values() > 1);
            match (repeats, several) {
                // Several values of one.
                (_, true) => Ok([vec![format!("--{name}")], values].concat()),
                (true, false) => Ok(values.into_iter().map(|value| format!("--{name}={value}")).collect()),
                (false, false) => wrong("is one value, not a list"),
            }
        }
        Value::Boolean(false) => Ok(Vec::new()),
        value => match text(value) {
            Some(value) => Ok(vec![format!("--{name}={value}")]),
            None => wrong("is a text, a number or a list of them"),
        },
    }
}

/// All options as such a file, passwords shown as `***`. Those that nobody gave are comments: given, some mean nothing without others, and
/// would be refused.
#[must_use]
pub fn shown(matches: &ArgMatches, command: &Command) -> String {
    let (mut given, mut defaults) = (Table::new(), Table::new());
    for arg in command.get_arguments() {
        let (Some(name), id) = (arg.get_long(), arg.get_id().as_str()) else { continue };
        if matches!(name, "config" | "print-config" | "help" | "version") {
            continue;
        }
        let is_default = matches.value_source(id) == Some(ValueSource::DefaultValue);
        let table = if is_default { &mut defaults } else { &mut given };
        if !arg.get_action().takes_values() {
            let is_set = matches!(arg.get_action(), ArgAction::SetTrue) && matches.get_flag(id);
            table.insert(name.to_owned(), Value::Boolean(is_set));
            continue;
        }
        let Some(values) = matches.get_raw(id) else { continue };
        let values: Vec<Value> =
            values.map(|value| Value::String(masked(&value.to_string_lossy()))).collect();
        let is_list = matches!(arg.get_action(), ArgAction::Append) || values.len() > 1;
        let value = if is_list { Some(Value::Array(values)) } else { values.into_iter().next() };
        table.extend(value.map(|value| (name.to_owned(), value)));
    }
    let from_variables: Vec<&str> = command
        .get_arguments()
        .filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::EnvVariable))
        .filter_map(Arg::get_long)
        .collect();
    let note = match from_variables.is_empty() {
        true => String::new(),
        false => format!("# From the environment: {}\n", from_variables.join(", ")),
    };
    let defaults: String = defaults.to_string().lines().map(|line| format!("# {line}\n")).collect();
    format!("{note}{given}\n# By default:\n{defaults}")
}

/// A URL without its password.
fn masked(text: &str) -> String {
    if !text.contains("://") {
        return text.to_owned();
    }
    match text.parse::<Endpoint>() {
        Ok(endpoint) => endpoint.to_string(),
        // Whatever it is, what may be a password is not shown.
        Err(_) => match (text.split_once("://"), text.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://***@{rest}"),
            _ => text.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

    #[derive(Debug, Parser)]
    struct Args {
        #[arg(long)]
        source: Vec<String>,
        #[arg(long, env = "KEYFERRY_TEST_NEVER_SET")]
        target: Option<String>,
        #[arg(long)]
        keep: bool,
        #[arg(long, default_value_t = 7)]
        linger: u64,
        #[arg(long, num_args = 1..=2)]
        on_error: Vec<String>,
        #[arg(long, num_args = 0..=1, default_missing_value = "on", require_equals = true)]
        adaptive: Option<String>,
        #[command(flatten)]
        config: ConfigArgs,
    }

    fn parse(file: &str, line: &str) -> Result<(Args, String), String> {
        let command = Args::command();
        let args = line.split(' ').map(str::to_owned).collect();
        let words = added(&file.parse().unwrap(), args, &command)?;
        let matches = command.clone().try_get_matches_from(words).map_err(|e| e.to_string())?;
        let shown = shown(&matches, &command);
        Ok((Args::from_arg_matches(&matches).unwrap(), shown))
    }

    #[test]
    fn options_come_from_a_file_and_the_command_line_goes_before_it() {
        let file = "source = [\"redis://:secret@a:1\"]\ntarget = \"redis://u:pw@b:2/0?x\"\nkeep = true\nlinger = 9\n\
                    on-error = [\"dead-letter\", \"f.aof\"]\nadaptive = true\n";
        let (args, shown) = parse(file, "migrate --linger=11").unwrap();
        assert_eq!((args.linger, args.keep, args.adaptive.as_deref()), (11, true, Some("on")));
        assert_eq!(args.on_error, ["dead-letter", "f.aof"]);
        assert_eq!(args.source, ["redis://:secret@a:1"]);
        assert!(args.target.is_some() && args.config.config.is_none());
        assert!(!shown.contains("secret") && !shown.contains("pw"), "{shown}");
        assert!(shown.contains("linger = \"11\"") && shown.contains("keep = true"), "{shown}");
        // What is printed can be read.
        let (again, _) = parse(&shown, "migrate").unwrap();
        assert_eq!((again.linger, again.on_error), (11, args.on_error));
        let (args, shown) = parse("", "migrate").unwrap();
        assert!(
            !args.keep && shown.contains("\n# linger = \"7\"") && shown.contains("\n# keep = false"),
            "{shown}"
        );
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told() {
        for (file, wrong) in [
            ("sorce = \"a\"", "there is no option \"sorce\""),
            ("keep = \"yes\"", "\"keep\" is true or false"),
            ("linger = [1, 2]", "\"linger\" is one value"),
            ("source = [[1]]", "is a list of texts"),
            ("config = \"other.toml\"", "there is no option \"config\""),
        ] {
            let error = parse(file, "migrate").map(|_| ()).unwrap_err();
            assert!(error.contains(wrong), "{file}: {error}");
        }
        let none = with_config(vec!["m".into(), "--config".into(), "none.toml".into()], &Args::command());
        assert!(none.unwrap_err().starts_with("config none.toml: "));
        let as_it_is = vec!["m".to_owned(), "--keep".to_owned()];
        assert_eq!(with_config(as_it_is.clone(), &Args::command()), Ok(as_it_is));
    }
}
