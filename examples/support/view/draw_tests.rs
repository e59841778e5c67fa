use std::time::{Duration, Instant};

use keyferry_migrate::{InputFigures, LinkFigures};
use ratatui::{Terminal, backend::TestBackend};

use super::*;

/// Everything that a screen may be made of.
struct Scene {
    sides: (String, String),
    figures: Figures,
    throttle: ThrottleFigures,
    history: History,
    errors: Vec<(String, u64)>,
    log: Vec<String>,
    said: Option<String>,
    looks: Looks,
}

impl Scene {
    /// Half of a snapshot of 2 GiB, at 64 MiB a second.
    fn snapshot() -> Self {
        let mut scene = Scene {
            sides: ("redis://old:6379".into(), "redis://new:6379".into()),
            figures: Figures::default(),
            throttle: ThrottleFigures::default(),
            history: History::default(),
            errors: Vec::new(),
            log: Vec::new(),
            said: None,
            looks: Looks::Coloured,
        };
        let begun = Instant::now();
        for second in 0..=16_u64 {
            let figures = &mut scene.figures;
            figures.phase = Phase::Snapshot;
            figures.elapsed_seconds = 3700.0 + second as f64;
            (figures.snapshot_total, figures.snapshot_received) = (Some(2 << 30), second << 27);
            (figures.snapshot_applied, figures.keys_applied) = (second << 26, second * 1000);
            figures.keys_announced = 32_000;
            scene.history.note(begun + Duration::from_secs(second), figures);
        }
        scene
    }

    /// Three shards that are followed, of which the second is in trouble and behind, and all else that can be shown.
    fn following() -> Self {
        let mut scene = Scene::snapshot();
        let begun = Instant::now();
        for second in 0..=60_u64 {
            let mut links = Vec::new();
            for (number, lag) in [(1, 0), (2, second << 20), (3, 2048)] {
                let mut link = LinkFigures::default();
                link.name = format!("10.0.0.{number}:6379");
                link.figures.phase = if number == 2 { Phase::CatchingUp } else { Phase::Following };
                link.figures.source_offset = Some((1000 + second) << 20);
                link.figures.applied_offset = ((1000 + second) << 20) - lag;
                link.figures.lag_bytes = Some(lag);
                link.figures.commands_applied = second * 100;
                link.figures.trouble = (number == 2).then(|| "connection refused".to_owned());
                links.push(link);
            }
            scene.figures.phase = Phase::CatchingUp;
            scene.figures.lag_bytes = links.iter().map(|link| link.figures.lag_bytes).sum();
            scene.figures.commands_applied = second * 300;
            scene.figures.links = links;
            scene.history.note(begun + Duration::from_secs(20 + second), &scene.figures);
        }
        scene.figures.trouble = Some("10.0.0.2:6379: connection refused".to_owned());
        scene.figures.journal_bytes = 5 << 30;
        scene.figures.source_patience_seconds = Some(300.0);
        scene.figures.reconnects = 3;
        scene.errors = vec![("MOVED".into(), 12), ("source_link".into(), 3)];
        scene.throttle.limits.set("full-bytes", "50mb").unwrap();
        scene.throttle.limits.set("commands", "20k").unwrap();
        scene.throttle.limits.set("adaptive", "on").unwrap();
        scene.throttle.adaptive_bytes = Some(3 << 20);
        scene.throttle.waited_seconds.insert("full", 12.0);
        scene.log = (1..100).map(|number| format!("{number}.0s  INFO line {number}")).collect();
        scene
    }

    fn render(&self, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let shown = Shown {
            sides: (&self.sides.0, &self.sides.1),
            figures: &self.figures,
            throttle: &self.throttle,
            history: &self.history,
            errors: &self.errors,
            log: &self.log,
            said: self.said.as_deref(),
            looks: self.looks,
        };
        terminal.draw(|frame| draw(&shown, frame.area(), frame.buffer_mut())).unwrap();
        terminal.backend().buffer().clone()
    }

    fn rows(&self, width: u16, height: u16) -> Vec<String> {
        let buffer = self.render(width, height);
        let row = |y| {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
            cells.trim_end().to_owned()
        };
        (0..height).map(row).collect()
    }
}

#[test]
fn a_snapshot_on_a_usual_terminal() {
    let rows = Scene::snapshot().rows(80, 24);
    assert_eq!(rows[0], "keyferry  redis://old:6379 → redis://new:6379                           01:01:56");
    assert_eq!(rows[1], "✓ connecting  ✓ preparing  ▶ snapshot  · catching up  · following");
    assert!(rows[2].starts_with("██████") && rows[2].contains("░░░"), "{rows:#?}");
    assert!(rows[2].ends_with("  50 %  1.00 GiB of 2.00 GiB  about 16 s left"), "{rows:#?}");
    assert_eq!(rows[3], "rates    128.00 MiB/s in, 64.00 MiB/s applied, 1,000 keys/s");
    assert_eq!(rows[4], "done     16,000 of 32,000 keys, 0 commands, 0 B sent");
    assert_eq!(rows[5], "lag      told when the snapshot is applied");
    assert_eq!(rows[9], "throttle no limits");
    assert_eq!(rows[11], "errors   none");
    assert_eq!(rows[12..23], [""; 11]);
    assert_eq!(rows[23], "q end   p pause   - + slower, faster   0 no limit");
}

#[test]
fn all_that_may_be_there() {
    let rows = Scene::following().rows(100, 30);
    let text = rows.join("\n");
    assert!(rows[1].contains("✓ snapshot  ▶ catching up  · following"), "{text}");
    assert!(rows[2].starts_with("lag 60.00 MiB, ") && rows[2].ends_with("the lag does not shrink"), "{text}");
    assert_eq!(rows[3], "trying again: 10.0.0.2:6379: connection refused");
    assert!(rows[4].contains("300 commands/s"), "{text}");
    let table: Vec<Vec<&str>> = rows[6..10].iter().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(table[0], ["shard", "lag", "phase", "applied", "received", "keys", "commands"]);
    assert_eq!(table[1][..4], ["10.0.0.1:6379", "0", "B", "following"]);
    assert_eq!(table[2][..5], ["10.0.0.2:6379", "60.00", "MiB", "catching", "up"]);
    assert!(rows[10].starts_with("lag      60.00 MiB now, 60.00 MiB at most in "), "{text}");
    // It grew to the right.
    assert!(rows[13].trim_start().contains('▁') && rows[11].trim_end().ends_with('█'), "{text}");
    let throttle =
        "throttle full 50.00 MiB/s, 20,480 commands/s; incremental 20,480 commands/s; adaptive: 3.00 MiB/s";
    assert!(rows[14].starts_with(throttle), "{text}");
    assert_eq!(rows[15], "journal  5.00 GiB on disk, 0 B wait; the source remembers 5 min");
    assert_eq!(rows[16], "errors   12 MOVED, 3 source_link, 3 times connected anew");
    assert_eq!(rows[17], "log");
    assert_eq!(rows[28], "  99.0s  INFO line 99", "the newest is last: {text}");
}

/// What matters most is there in the end.
#[test]
fn small_terminals() {
    let scene = Scene::following();
    let rows = scene.rows(40, 10);
    let text = rows.join("\n");
    assert_eq!(rows[0], "keyferry  old:6379 → new:6379   01:01:56", "{text}");
    assert_eq!(rows[1], "▶ catching up (4 of 5)", "{text}");
    assert!(rows[2].starts_with("lag 60.00 MiB"), "{text}");
    assert!(rows[3].starts_with("trying again"), "{text}");
    // What is wrong comes first, and what stays away is counted.
    assert!(rows[6].starts_with("shard ") && rows[7].starts_with("10.0.0.2:6379 "), "{text}");
    assert_eq!(rows[8], "and 2 more", "{text}");
    assert!(rows[5].starts_with("done ") && rows[9].starts_with("q end"), "{text}");
    assert!(scene.rows(40, 1)[0].starts_with("lag 60.00 MiB"));
    let rows = scene.rows(40, 12);
    assert!(rows[9].starts_with("lag      60.00 MiB now"), "{rows:#?}");
    assert!(rows[10].ends_with("▇█"), "{rows:#?}");
}

/// No size, and nothing that a server may say, ends it or gets out of its place.
#[test]
fn every_size_and_hostile_words() {
    let hostile = "\x1b[2J\x1b]0;title\x07\u{9b}31m\u{202e}日本語\r\n\t🦀e\u{301}\u{200b}".repeat(20);
    let mut worst = Scene::following();
    worst.sides = (hostile.clone(), hostile.clone());
    worst.log = vec![hostile.clone(); 5];
    worst.errors = vec![(hostile.clone(), u64::MAX); 64];
    worst.said = Some(hostile.clone());
    worst.figures.trouble = Some(hostile.clone());
    (worst.figures.held_up, worst.figures.source_patience_seconds) = (true, Some(f64::INFINITY));
    worst.figures.elapsed_seconds = f64::MAX;
    worst.throttle.waited_seconds.insert("full", f64::NAN);
    for link in &mut worst.figures.links {
        link.name.clone_from(&hostile);
        link.figures.trouble = Some(hostile.clone());
        (link.figures.snapshot_applied, link.figures.lag_bytes) = (u64::MAX, Some(u64::MAX));
    }
    let mut many = Scene::following();
    many.figures.links = many.figures.links.iter().cycle().take(2000).cloned().collect();
    let mut numbers = Scene::snapshot();
    numbers.looks = Looks::Plain;
    numbers.figures.snapshot_total = Some(1);
    (numbers.figures.snapshot_applied, numbers.figures.keys_applied) = (u64::MAX, u64::MAX);
    let mut files = Scene::snapshot();
    files.figures.input = Some(InputFigures::default());
    let empty = Scene { figures: Figures::default(), history: History::default(), ..Scene::snapshot() };
    for scene in [&Scene::snapshot(), &Scene::following(), &worst, &numbers, &files, &empty, &many] {
        let sizes = (1..=12).flat_map(|width| (1..=9).map(move |height| (width, height)));
        for (width, height) in sizes.chain([(40, 10), (80, 24), (80, 1), (1, 100), (500, 3), (200, 60)]) {
            for row in scene.rows(width, height) {
                assert!(!row.chars().any(|c| c.is_control() || c == '\u{202e}'), "{row:?}");
            }
        }
    }
}

#[test]
fn without_colours() {
    let mut scene = Scene::following();
    let colours = |scene: &Scene| {
        let buffer = scene.render(80, 24);
        buffer.content().iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert!(colours(&scene) > 20);
    scene.looks = Looks::Plain;
    assert_eq!(colours(&scene), 0);
    // What is wrong stands out all the same.
    assert!(scene.render(80, 24)[(0, 3)].modifier.contains(Modifier::BOLD));
}

#[test]
fn what_is_said_takes_the_place_of_the_keys() {
    let mut scene = Scene::snapshot();
    scene.said = Some("migrate: stopping: applying what has been read (again to end at once)".into());
    assert_eq!(scene.rows(80, 24)[23], scene.said.clone().unwrap());
    scene.throttle.paused = true;
    assert_eq!(scene.rows(80, 24)[2], "paused: nothing is handed to the target");
    scene.said = None;
    assert!(scene.rows(80, 24)[23].contains("p resume"));
}

/// Files have a whole, and parts that are named like shards.
#[test]
fn files() {
    let mut scene = Scene::snapshot();
    let mut input = InputFigures::default();
    (input.applied, input.total) = (1 << 20, Some(4 << 20));
    scene.figures.input = Some(input);
    assert!(scene.rows(80, 24)[2].contains(" 25 %  1.00 MiB of 4.00 MiB"), "{:#?}", scene.rows(80, 24));
    input.total = None;
    scene.figures.input = Some(input);
    assert_eq!(scene.rows(80, 24)[2], "1.00 MiB");
}
