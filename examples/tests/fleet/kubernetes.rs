//! The manifests: what their pods run is run, beside servers in the place of those that they name.

use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use keyferry_testkit::{
    Cluster, Side, any,
    data::{self, Writer},
};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    Counters, assert_equal,
    manifest::{Pod, container, deploy, leaves, list, object, objects, text},
    process::{Process, free_port, program, status_of, wait_until},
    writing,
};

const STATEFUL_SET: &str = "kubernetes.yaml";
const JOB: &str = "kubernetes-job.yaml";

/// A pod that runs, and where it listens.
struct Running {
    process: Process,
    metrics: SocketAddr,
}

/// Two clusters by the names that a manifest gives their nodes, and where volumes are.
struct Stage {
    source: Cluster,
    target: Cluster,
    dir: tempfile::TempDir,
}

impl Stage {
    fn new(secret: &Yaml) -> Self {
        let cluster = |side: &str| {
            let password = text(&secret["stringData"][format!("{side}-password").as_str()]);
            Cluster::builder(any().unwrap()).primaries(3).password(password).start().unwrap()
        };
        let (source, target) = (cluster("source"), cluster("target"));
        Stage { source, target, dir: tempfile::tempdir().unwrap() }
    }

    /// Starts what the pod with this number runs. Its volumes are directories, which stay when it ends.
    fn start(&self, workload: &Yaml, secret: &Yaml, number: u64) -> Running {
        let index = number.to_string();
        let fields = BTreeMap::from([("metadata.labels['apps.kubernetes.io/pod-index']", index.clone())]);
        let added: &[_] = match text(&workload["kind"]) {
            "Job" => &[("JOB_COMPLETION_INDEX", index)],
            _ => &[],
        };
        let mut pod = Pod::of(workload, &fields, added);
        for mount in list(&container(workload)["volumeMounts"]) {
            let (name, path) = (text(&mount["name"]), text(&mount["mountPath"]));
            let place = self.dir.path().join(format!("{name}-{number}"));
            std::fs::create_dir_all(&place).unwrap();
            self.fill_volume(workload, name, &place, secret);
            pod = pod.with(path, &place.display().to_string());
        }
        for (side, cluster) in [("source", &self.source), ("target", &self.target)] {
            for (number, node) in cluster.nodes().iter().enumerate() {
                pod = pod.with(&format!("{side}-{number}:6379"), &node.addr().to_string());
            }
        }
        let port = container(workload)["ports"][0]["containerPort"].as_i64().unwrap();
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let listens = format!("--metrics=0.0.0.0:{port}");
        assert!(pod.args.contains(&listens), "{:?}", pod.args);
        pod = pod.with(&listens, &format!("--metrics={metrics}"));
        let args: Vec<&str> = pod.args.iter().map(String::as_str).collect();
        Running { process: Process::migrate(&args, &pod.variables), metrics }
    }

    /// What a volume of this name holds when the pod begins.
    fn fill_volume(&self, workload: &Yaml, name: &str, place: &Path, secret: &Yaml) {
        let volumes = list(&workload["spec"]["template"]["spec"]["volumes"]);
        let claims = list(&workload["spec"]["volumeClaimTemplates"]);
        let claimed = claims.iter().any(|claim| claim["metadata"]["name"].as_str() == Some(name));
        let volume = volumes.iter().find(|volume| volume["name"].as_str() == Some(name));
        match volume {
            Some(volume) if !volume["secret"].is_badvalue() => {
                assert_eq!(volume["secret"]["secretName"], secret["metadata"]["name"]);
                for (file, content) in secret["stringData"].as_hash().unwrap() {
                    std::fs::write(place.join(text(file)), text(content)).unwrap();
                }
            }
            Some(volume) => assert!(!volume["ephemeral"]["volumeClaimTemplate"].is_badvalue()),
            // As a file system that was just made.
            None => {
                assert!(claimed, "there is no volume {name}");
                std::fs::create_dir_all(place.join("lost+found")).unwrap();
            }
        }
    }
}

/// Whether a probe is answered with 200; the port is the one that the container names.
fn probed(workload: &Yaml, probe: &str, running: &Running) -> bool {
    let (container, get) = (container(workload), &container(workload)[probe]["httpGet"]);
    assert_eq!(get["port"], container["ports"][0]["name"], "{probe}");
    status_of(running.metrics, text(&get["path"])) == Some(200)
}

/// The workers follow, one of them is killed and started again beside the same volume, and all are ended as a pod is.
#[test]
fn a_stateful_set_carries_over_a_cluster() {
    let all = objects(STATEFUL_SET);
    let (set, secret) = (object(&all, "StatefulSet"), object(&all, "Secret"));
    let workers = u64::try_from(set["spec"]["replicas"].as_i64().unwrap()).unwrap();
    let stage = Stage::new(secret);
    data::small_cluster(&mut stage.source.client().unwrap(), 6, 1).unwrap();
    let mut counters = Counters::of(&stage.source);
    counters.write(20);
    let writer = Writer::start_cluster(&stage.source, writing()).unwrap();
    let mut pods: Vec<Running> = (0..workers).map(|number| stage.start(set, secret, number)).collect();
    let ready = |pods: &mut Vec<Running>| {
        for pod in pods {
            wait_until("readiness", || {
                assert!(!pod.process.is_over(), "{}", pod.process.said());
                probed(set, "readinessProbe", pod)
            });
            assert!(probed(set, "livenessProbe", pod));
        }
    };
    ready(&mut pods);
    let urls = [stage.source.url(), stage.target.url()];
    let barrier = |patience: &str| {
        let diff = program().with_file_name("diff");
        let options = ["--live", "--barrier", patience, "--barrier-by", "checkpoint"];
        Command::new(diff).args(&urls).args(options).output().unwrap()
    };
    pods.remove(1).process.kill();
    counters.write(20);
    // What one of the workers lacks, the target lacks.
    let output = barrier("1");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    pods.insert(1, stage.start(set, secret, 1));
    counters.write(20);
    assert_eq!(writer.stop().unwrap().errors, 0);
    data::settle_cluster(&stage.source).unwrap();
    ready(&mut pods);
    let rounds = counters.rounds as i64;
    let mut target = stage.target.client().unwrap();
    let tags = counters.tags.clone();
    wait_until("the last write", || {
        tags.iter().all(|tag| target.int(&["LLEN", &format!("list:{{{tag}}}")]).unwrap() == rounds)
    });
    let output = barrier("60");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    pods.iter().for_each(|pod| pod.process.terminate());
    for pod in &mut pods {
        assert!(pod.process.ends_well(), "{}", pod.process.said());
    }
    assert_equal(&stage.source, Side::cluster(&stage.target).unwrap(), true, "a stateful set");
}

/// The workers end by themselves, with nothing left behind.
#[test]
fn a_job_carries_over_a_cluster() {
    let (jobs, all) = (objects(JOB), objects(STATEFUL_SET));
    let (job, secret) = (object(&jobs, "Job"), object(&all, "Secret"));
    let spec = &job["spec"];
    assert_eq!((text(&spec["completionMode"]), &spec["completions"]), ("Indexed", &spec["parallelism"]));
    let stage = Stage::new(secret);
    data::small_cluster(&mut stage.source.client().unwrap(), 7, 1).unwrap();
    let workers = u64::try_from(spec["completions"].as_i64().unwrap()).unwrap();
    let mut pods: Vec<Running> = (0..workers).map(|number| stage.start(job, secret, number)).collect();
    for pod in &mut pods {
        assert!(pod.process.ends_well(), "{}", pod.process.said());
    }
    assert_equal(&stage.source, Side::cluster(&stage.target).unwrap(), false, "a job");
}

/// What depends on each other in a manifest fits together.
#[test]
fn the_manifests_fit_together() {
    let (all, jobs) = (objects(STATEFUL_SET), objects(JOB));
    let (set, job) = (object(&all, "StatefulSet"), object(&jobs, "Job"));
    for (workload, count) in [(set, &set["spec"]["replicas"]), (job, &job["spec"]["completions"])] {
        let variables = list(&container(workload)["env"]);
        let workers = variables.iter().find(|variable| variable["name"].as_str() == Some("WORKERS")).unwrap();
        assert_eq!(text(&workers["value"]), count.as_i64().unwrap().to_string());
        let (pod, container) = (&workload["spec"]["template"]["spec"], container(workload));
        assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true));
        let user = pod["securityContext"]["runAsUser"].as_i64().unwrap();
        assert!(crate::image::dockerfile().contains(&format!("USER {user}:{user}")));
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"].as_bool(), Some(true));
        assert_eq!(security["allowPrivilegeEscalation"].as_bool(), Some(false));
        assert_eq!(text(&security["capabilities"]["drop"][0]), "ALL");
        assert!(!container["resources"]["limits"]["memory"].is_badvalue());
        // The program gives what it has read twenty seconds.
        assert!(pod["terminationGracePeriodSeconds"].as_i64().unwrap() >= 30);
    }
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    let (service, budget) = (object(&all, "Service"), object(&all, "PodDisruptionBudget"));
    for selector in [
        &service["spec"]["selector"],
        &budget["spec"]["selector"]["matchLabels"],
        &set["spec"]["selector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    assert_ne!(&job["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(service["metadata"]["name"], set["spec"]["serviceName"]);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], container(set)["ports"][0]["name"]);
    assert_eq!(text(&set["spec"]["podManagementPolicy"]), "Parallel");
}

/// Where kubectl is there, every field is one that it knows, and in its place: it drops others when it makes an object of its own of
/// a manifest, which needs no cluster.
#[test]
fn kubectl_knows_every_field() {
    for (file, kind) in [(STATEFUL_SET, "StatefulSet"), (JOB, "Job")] {
        let text = std::fs::read_to_string(deploy().join(file)).unwrap();
        let document =
            text.split("\n---\n").find(|part| part.contains(&format!("\nkind: {kind}\n"))).unwrap();
        let mut kubectl = Command::new("kubectl");
        kubectl.args(["set", "image", "--local", "-f", "-", "-o", "yaml", "migrate=another"]);
        let started = kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut child) = started else { return };
        child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let known = YamlLoader::load_from_str(&String::from_utf8(output.stdout).unwrap()).unwrap();
        let (mut given, mut taken) = (BTreeMap::new(), BTreeMap::new());
        leaves(object(&objects(file), kind), "", &mut given);
        let Yaml::Hash(mut fields) = known[0].clone() else { panic!("no object: {known:?}") };
        // What it adds is empty.
        fields.remove(&Yaml::String("status".to_owned()));
        leaves_of_known(&Yaml::Hash(fields), &mut taken);
        given.remove(".spec.template.spec.containers[0].image").unwrap();
        for (place, value) in given {
            assert_eq!(taken.get(&place), Some(&value), "{kind}{place}");
        }
    }
}

/// As [`leaves`], without what is null.
fn leaves_of_known(object: &Yaml, into: &mut BTreeMap<String, String>) {
    fn without_null(yaml: &Yaml) -> Yaml {
        match yaml {
            Yaml::Hash(fields) => {
                let fields = fields.iter().filter(|(_, value)| !value.is_null());
                Yaml::Hash(fields.map(|(name, value)| (name.clone(), without_null(value))).collect())
            }
            Yaml::Array(items) => Yaml::Array(items.iter().map(without_null).collect()),
            other => other.clone(),
        }
    }
    leaves(&without_null(object), "", into);
}
