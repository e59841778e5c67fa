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
    "--control",
    "--control-token-file",
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
    let Some(at) = given.iter().position(|(name, _)| name == "--plan") else { return Ok((args, None)) };
    let (_, file) = given.remove(at);
    let file = file.ok_or("--plan wants a file")?;
    if let Some((name, _)) = given.iter().find(|(name, _)| !BESIDE.contains(&name.as_str())) {
        return Err(format!(
            "{name} cannot be changed beside --plan: make the plan again (--precheck --plan FILE)"
        ));
    }
    let plan = read(Path::new(&file))?;
    let mut expanded: Vec<String> = args.first().cloned().into_iter().collect();
    expanded.extend(plan.arguments.iter().cloned());
    for (side, url, variable) in
        [("--source", &plan.source.url, "KEYFERRY_SOURCE"), ("--target", &plan.target.url, "KEYFERRY_TARGET")]
    {
        if given.iter().any(|(name, _)| name == side) {
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
        given.push((side.to_owned(), Some(url)));
    }
    for (name, value) in given {
        expanded.push(name);
        expanded.extend(value);
    }
    Ok((expanded, Some(plan)))
}

/// What of a command line goes into a plan: all but the URLs, which may hold passwords, and what only this run says.
#[must_use]
pub fn planned(args: &[String]) -> Vec<String> {
    let mut planned = Vec::new();
    for (name, value) in options(&args[args.len().min(1)..]) {
        let is_planned = name != "--plan" && !BESIDE.contains(&name.as_str());
        if is_planned && !NOT_PLANNED_FLAGS.contains(&name.as_str()) {
            planned.push(name);
            planned.extend(value);
        }
    }
    planned
}

/// Options with their values, both of `--name value` and of `--name=value`.
fn options(args: &[String]) -> Vec<(String, Option<String>)> {
    let mut options: Vec<(String, Option<String>)> = Vec::new();
    for arg in args {
        match (arg.starts_with("--"), arg.split_once('='), options.last_mut()) {
            (true, Some((name, value)), _) => options.push((name.to_owned(), Some(value.to_owned()))),
            (true, None, _) => options.push((arg.clone(), None)),
            (false, _, Some((_, value @ None))) => *value = Some(arg.clone()),
            // Whatever it is, the parser of the command line will say so.
            (false, _, _) => options.push((arg.clone(), None)),
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
        assert_eq!(planned(&words(line)), words("--db-map 1=0 --until forever"));
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
