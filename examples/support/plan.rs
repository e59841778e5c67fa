//! `--plan FILE`: a command line that is written down, and taken back.

use std::path::Path;

use keyferry_migrate::precheck::Plan;

/// Options that may stand beside `--plan` when it is run: where passwords come from, and what is told.
const BESIDE: &[&str] = &[
    "--source",
    "--target",
    "--report",
    "--metrics",
    "--log",
    "--log-level",
    "--view",
    "--control",
    "--control-token-file",
    "--print-config",
];

/// Flags that are not part of a plan.
const NOT_PLANNED_FLAGS: &[&str] = &["--precheck", "--json"];

/// The command line that a plan stands for, where there is `--plan FILE` without `--precheck`; else as it is.
///
/// # Errors
/// When the file cannot be read or is no plan, when another option stands beside it, or when a password is missing.
pub fn expand(args: Vec<String>) -> Result<(Vec<String>, Option<Plan>), String> {
    if args.iter().any(|arg| arg == "--precheck") {
        return Ok((args, None));
    }
    let mut given = options(&args[args.len().min(1)..]);
    let Some(at) = given.iter().position(|option| option.name() == "--plan") else { return Ok((args, None)) };
    let plan = given.remove(at);
    let file = plan.value().ok_or("--plan wants a file")?;
    if let Some(option) = given.iter().find(|option| !BESIDE.contains(&option.name())) {
        return Err(format!(
            "{} cannot be changed beside --plan: make the plan again (--precheck --plan FILE)",
            option.name()
        ));
    }
    let plan = read(Path::new(file))?;
    let mut expanded: Vec<String> = args.first().cloned().into_iter().collect();
    expanded.extend(plan.arguments.iter().cloned());
    for (side, url, variable) in
        [("--source", &plan.source.url, "KEYFERRY_SOURCE"), ("--target", &plan.target.url, "KEYFERRY_TARGET")]
    {
        if given.iter().any(|option| option.name() == side) {
            continue;
        }
        let url = match std::env::var(variable) {
            Ok(url) => url,
            Err(_) if url.contains(":***@") => {
                return Err(format!(
                    "the plan holds no passwords: give {side} {url} with its password, or {variable}"
                ));
            }
            Err(_) => url.clone(),
        };
        given.push(GivenOption(vec![side.to_owned(), url]));
    }
    expanded.extend(given.into_iter().flat_map(|option| option.0));
    Ok((expanded, Some(plan)))
}

/// What of a command line goes into a plan: all but the URLs, which may hold passwords, and what only this run says.
#[must_use]
pub fn planned(args: &[String]) -> Vec<String> {
    let is_planned = |option: &GivenOption| {
        let name = option.name();
        name != "--plan" && !BESIDE.contains(&name) && !NOT_PLANNED_FLAGS.contains(&name)
    };
    options(&args[args.len().min(1)..]).into_iter().filter(is_planned).flat_map(|option| option.0).collect()
}

/// An option with its values, as it was given: there are such as want `--name=value`, and values that would be taken for options
/// without that.
struct GivenOption(Vec<String>);

impl GivenOption {
    fn name(&self) -> &str {
        let word = self.0.first().map_or("", String::as_str);
        word.split_once('=').map_or(word, |(name, _)| name)
    }

    fn value(&self) -> Option<&str> {
        let word = self.0.first()?;
        word.split_once('=').map(|(_, value)| value).or_else(|| self.0.get(1).map(String::as_str))
    }
}

fn options(args: &[String]) -> Vec<GivenOption> {
    let mut options: Vec<GivenOption> = Vec::new();
    for arg in args {
        match options.last_mut() {
            Some(last) if !arg.starts_with("--") => last.0.push(arg.clone()),
            // What stands before all options, the parser of the command line will refuse.
            _ => options.push(GivenOption(vec![arg.clone()])),
        }
    }
    options
}

fn read(file: &Path) -> Result<Plan, String> {
    let text = std::fs::read(file).map_err(|e| format!("plan {}: {e}", file.display()))?;
    serde_json::from_slice(&text)
        .map_err(|e| format!("plan {}: is none of this program: {e}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn urls_and_the_way_it_is_told_are_not_planned() {
        let line = "migrate --source redis://:pw@a --target=redis://:pw@b --db-map 1=0 --precheck --until=forever --plan x --json";
        assert_eq!(planned(&words(line)), words("--db-map 1=0 --until=forever"));
        // As they were given: `--adaptive 40` would be none.
        let line = "--adaptive=40 --include-keys=-x --on-error dead-letter f.aof --keep --id=a";
        let given = words(&format!("migrate --plan=p {line} --view --metrics 127.0.0.1:1"));
        assert_eq!(planned(&given), words(line));
        assert_eq!(planned(&[]), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_changed_beside_a_plan() {
        let error = expand(words("migrate --plan none --until forever")).unwrap_err();
        assert!(error.contains("--until cannot be changed"), "{error}");
        assert!(expand(words("migrate --plan none")).unwrap_err().starts_with("plan none: "));
        let as_it_is = words("migrate --source a --target b");
        assert_eq!(expand(as_it_is.clone()), Ok((as_it_is, None)));
        let written = words("migrate --precheck --plan none --source a");
        assert_eq!(expand(written.clone()), Ok((written, None)));
    }
}
