use super::{adaptive::Controller, *};

/// What may be taken in so many seconds, without waiting for them.
fn taken(bucket: &mut Bucket, from: Instant, seconds: f64, amount: u64) -> f64 {
    let (mut now, mut sum) = (from, 0);
    let end = from + Duration::from_secs_f64(seconds);
    loop {
        match bucket.wait(now) {
            None => {
                bucket.take(amount);
                sum += amount;
            }
            Some(wait) => now += wait,
        }
        if now >= end {
            return sum as f64;
        }
    }
}

#[test]
fn a_bucket_keeps_its_rate_whatever_is_taken_at_once() {
    let now = Instant::now();
    for (rate, amount) in [(1000, 1), (1000, 20), (50 << 20, 1 << 20), (10, 1), (1000, 300)] {
        let sum = taken(&mut Bucket::new(rate, now), now, 20.0, amount);
        let wanted = rate as f64 * 20.0;
        assert!((sum - wanted).abs() <= wanted * 0.03 + amount as f64, "{rate} {amount}: {sum}");
    }
    let mut bucket = Bucket::new(1000, now);
    taken(&mut bucket, now, 1.0, 1);
    let later = now + Duration::from_secs(2);
    bucket.wait(later);
    bucket.set_rate(5000);
    let sum = taken(&mut bucket, later, 10.0, 1);
    assert!((sum - 50_000.0).abs() < 1500.0, "{sum}");
}

#[test]
fn a_slow_answer_halves_the_rate_and_it_comes_back() {
    let (mut controller, mut now) = (Controller::default(), Instant::now());
    let mut step = |is_slow: bool, rate: f64, floor: f64| {
        now += Duration::from_millis(250);
        controller.step(is_slow, rate, floor, now)
    };
    assert_eq!(step(false, 8e6, 0.0), None);
    assert_eq!(step(true, 8e6, 0.0), Some(4_000_000));
    // What was under way comes to its end first.
    assert_eq!(step(true, 8e6, 0.0), Some(4_000_000));
    for _ in 0..3 {
        step(true, 4e6, 0.0);
    }
    assert_eq!(step(true, 4e6, 0.0), Some(2_000_000));
    // Not below what the source needs, nor below the least.
    for _ in 0..40 {
        assert!(step(true, 1e6, 3e6).unwrap() >= 2_000_000);
    }
    assert_eq!(step(true, 1e6, 3e6), Some(3_000_000));
    for _ in 0..80 {
        step(true, 1.0, 0.0);
    }
    assert_eq!(step(true, 1.0, 0.0), Some(64 << 10));
    let steps = (0..200).take_while(|_| step(false, 1e5, 0.0).is_some()).count();
    assert!((10..100).contains(&steps), "{steps}");
}

#[tokio::test]
async fn limits_are_changed_and_pauses_end_while_somebody_waits() {
    let stop = CancellationToken::new();
    let throttle = Throttle::new(stop.clone());
    let load = Load { bytes: 1000, keys: 1, commands: 1 };
    // Nothing is limited.
    throttle.take(Stage::Full, Some(0), load).await;
    assert_eq!(throttle.quantum(Stage::Full).bytes, u64::MAX);
    let mut limits = RateLimits::default();
    limits.full.keys = Some(1);
    limits.incremental.bytes = Some(0);
    throttle.set_limits(limits);
    // The other stage is not.
    throttle.take(Stage::Incremental, Some(0), load).await;
    throttle.take(Stage::Full, Some(0), load).await;
    let waiting = {
        let throttle = throttle.clone();
        tokio::spawn(async move {
            for _ in 0..1000 {
                throttle.take(Stage::Full, Some(0), load).await;
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    throttle.pause();
    throttle.set_limits(RateLimits::default());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished() && throttle.is_paused());
    throttle.resume();
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    let waited = throttle.figures().waited_seconds;
    assert!(waited["full"] > 0.0 && waited["paused"] > 0.0, "{waited:?}");
    assert!(!throttle.is_active());

    // A run that is to end is not held up by a pause.
    throttle.pause();
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), throttle.take(Stage::Full, Some(0), load)).await.unwrap();
}
