//! What keys do.

use keyferry_migrate::{Phase, RateLimits};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Limits are not set lower than this by keys, in bytes a second.
const LOWEST: u64 = 64 * 1024;
/// A key makes it so much slower, or faster.
const STEP: f64 = 0.8;

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    End,
    Pause,
    Slower,
    Faster,
    Unlimited,
    Redraw,
}

/// What a key means.
pub(super) fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
        (KeyCode::Char('c'), true) | (KeyCode::Char('q' | 'Q'), false) => Some(Wish::End),
        (KeyCode::Char('l'), true) => Some(Wish::Redraw),
        (KeyCode::Char('p' | 'P' | ' '), false) => Some(Wish::Pause),
        (KeyCode::Char('-'), false) => Some(Wish::Slower),
        (KeyCode::Char('+' | '='), false) => Some(Wish::Faster),
        (KeyCode::Char('0'), false) => Some(Wish::Unlimited),
        _ => None,
    }
}

/// The limits after such a wish: that of bytes a second in the present stage, which begins at the present rate where there is none.
pub(super) fn limited(mut limits: RateLimits, wish: Wish, phase: Phase, per_second: u64) -> RateLimits {
    let stage = match phase {
        Phase::CatchingUp | Phase::Following => &mut limits.incremental.bytes,
        _ => &mut limits.full.bytes,
    };
    let limit = stage.filter(|&limit| limit > 0);
    *stage = match wish {
        Wish::Slower => Some(((limit.unwrap_or(per_second) as f64 * STEP) as u64).max(LOWEST)),
        // One above the lowest at least, or it would stay there for ever.
        Wish::Faster => limit.map(|limit| (limit as f64 / STEP).ceil() as u64),
        Wish::Unlimited => None,
        Wish::End | Wish::Pause | Wish::Redraw => *stage,
    };
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_wishes() {
        let plain = |c| wish(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE));
        let control = |c| wish(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
        assert_eq!([plain('q'), control('c')], [Some(Wish::End); 2]);
        assert_eq!([plain('c'), control('q'), plain('x'), control('p')], [None; 4]);
        assert_eq!(
            (plain('p'), plain('-'), plain('0')),
            (Some(Wish::Pause), Some(Wish::Slower), Some(Wish::Unlimited))
        );
        let mut released = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        assert_eq!(wish(released), None);
    }

    #[test]
    fn the_limit_of_the_present_stage_changes() {
        let of = |limits, wish, phase| limited(limits, wish, phase, 10_000_000);
        let slower = of(RateLimits::default(), Wish::Slower, Phase::Snapshot);
        assert_eq!((slower.full.bytes, slower.incremental.bytes), (Some(8_000_000), None));
        assert_eq!(of(slower, Wish::Faster, Phase::Snapshot).full.bytes, Some(10_000_000));
        let both = of(slower, Wish::Slower, Phase::Following);
        assert_eq!((both.full.bytes, both.incremental.bytes), (Some(8_000_000), Some(8_000_000)));
        assert_eq!(of(both, Wish::Unlimited, Phase::Following).incremental.bytes, None);
        // Nothing stops altogether, nothing overflows, and what is not limited gets no limit by being made faster.
        let mut limits = RateLimits::default();
        (0..100).for_each(|_| limits = limited(limits, Wish::Slower, Phase::Snapshot, 0));
        assert_eq!(limits.full.bytes, Some(LOWEST));
        (0..400).for_each(|_| limits = limited(limits, Wish::Faster, Phase::Snapshot, 0));
        assert_eq!(limits.full.bytes, Some(u64::MAX));
        assert_eq!(of(RateLimits::default(), Wish::Faster, Phase::Snapshot), RateLimits::default());
    }
}
