//! Manifests, read as Kubernetes reads them: what a pod of them runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use yaml_rust2::{Yaml, YamlLoader};

/// The files for a deployment.
pub(crate) fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// The objects of a file.
pub(crate) fn objects(file: &str) -> Vec<Yaml> {
    let text = std::fs::read_to_string(deploy().join(file)).unwrap();
    YamlLoader::load_from_str(&text).unwrap()
}

/// The object of this kind, of which there is one.
pub(crate) fn object<'o>(objects: &'o [Yaml], kind: &str) -> &'o Yaml {
    let mut found = objects.iter().filter(|object| object["kind"].as_str() == Some(kind));
    let object = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there are several {kind}");
    object
}

pub(crate) fn text(yaml: &Yaml) -> &str {
    yaml.as_str().unwrap_or_else(|| panic!("a text is wanted: {yaml:?}"))
}

pub(crate) fn list(yaml: &Yaml) -> &[Yaml] {
    yaml.as_vec().map_or(&[], |list| list)
}

/// The only container of a workload's pods.
pub(crate) fn container(workload: &Yaml) -> &Yaml {
    let containers = list(&workload["spec"]["template"]["spec"]["containers"]);
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// A pod: what is set, with what is only known where it runs.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) args: Vec<String>,
}

impl Pod {
    /// The pod with this number; `given` are names in the fields of the pod, or variables that a controller adds behind the others.
    pub(crate) fn of(workload: &Yaml, fields: &BTreeMap<&str, String>, added: &[(&str, String)]) -> Self {
        let container = container(workload);
        assert!(container["command"].is_badvalue(), "the image's own program is run");
        let mut variables: Vec<(String, String)> = Vec::new();
        for variable in list(&container["env"]) {
            let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
            let value = match field.as_str() {
                Some(field) => fields.get(field).unwrap_or_else(|| panic!("no field {field}")).clone(),
                // Only what stands before it is known.
                None => expanded(text(&variable["value"]), &variables),
            };
            variables.push((text(&variable["name"]).to_owned(), value));
        }
        variables.extend(added.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let args = list(&container["args"]).iter().map(|arg| expanded(text(arg), &variables)).collect();
        Pod { variables, args }
    }

    /// The same with another text wherever this one stands.
    pub(crate) fn with(mut self, from: &str, to: &str) -> Self {
        let texts = self.variables.iter_mut().map(|(_, value)| value).chain(&mut self.args);
        texts.for_each(|text| *text = text.replace(from, to));
        self
    }
}

/// `$(NAME)` stands for the value of a variable, if there is such a one; `$$` for `$`.
fn expanded(text: &str, variables: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest.strip_prefix("$(").and_then(|rest| rest.split_once(')')).map(|(name, _)| name);
        let known = name.and_then(|name| variables.iter().find(|(of, _)| of == name));
        match (known, rest.strip_prefix("$$")) {
            (Some((name, value)), _) => {
                out.push_str(value);
                rest = &rest[name.len() + 3..];
            }
            (None, Some(behind)) => {
                out.push('$');
                rest = behind;
            }
            (None, None) => {
                out.push('$');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

/// All places of an object at which there is a text, a number or a truth.
pub(crate) fn leaves(yaml: &Yaml, place: &str, into: &mut BTreeMap<String, String>) {
    match yaml {
        Yaml::Hash(fields) => {
            fields.iter().for_each(|(name, value)| leaves(value, &format!("{place}.{}", text(name)), into));
        }
        Yaml::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(number, value)| leaves(value, &format!("{place}[{number}]"), into));
        }
        Yaml::String(value) => drop(into.insert(place.to_owned(), value.clone())),
        Yaml::Integer(value) => drop(into.insert(place.to_owned(), value.to_string())),
        Yaml::Boolean(value) => drop(into.insert(place.to_owned(), value.to_string())),
        other => panic!("{place}: {other:?}"),
    }
}

#[test]
fn variables_are_put_as_kubernetes_puts_them() {
    let variables = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x".to_owned())];
    for (text, expected) in [
        ("$(A)/3", "1/3"),
        ("$(A)$(B)", "1x"),
        ("$(C)/3", "$(C)/3"),
        ("$$(A)", "$(A)"),
        ("a$", "a$"),
        ("$(A", "$(A"),
        ("$A", "$A"),
    ] {
        assert_eq!(expanded(text, &variables), expected, "{text}");
    }
}
