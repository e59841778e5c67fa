//! Rectangles in proportion to numbers: a squarified treemap.

/// A rectangle, in the units of the drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

impl Rect {
    /// The same without so much at each side; never less than nothing.
    pub(super) fn inset(self, by: f64) -> Self {
        Self {
            x: self.x + by,
            y: self.y + by,
            w: (self.w - 2.0 * by).max(0.0),
            h: (self.h - 2.0 * by).max(0.0),
        }
    }

    /// The same without so much at the top.
    pub(super) fn below(self, by: f64) -> Self {
        Self { y: self.y + by, h: (self.h - by).max(0.0), ..self }
    }
}

/// Divides a rectangle among sizes, which come in descending order, so that each part is as square as can be. Gives one
/// rectangle for each; what is zero gets none of the area.
pub(super) fn squarify(sizes: &[u64], area: Rect) -> Vec<Rect> {
    let total: f64 = sizes.iter().map(|size| *size as f64).sum();
    let mut rects = Vec::with_capacity(sizes.len());
    let mut free = area;
    let mut rest = sizes;
    let scale = if total > 0.0 { area.w * area.h / total } else { 0.0 };
    while !rest.is_empty() {
        let side = free.w.min(free.h);
        let mut row = 1;
        let mut sum = rest[0] as f64 * scale;
        let first = sum;
        while let Some(next) = rest.get(row) {
            let with = sum + *next as f64 * scale;
            let last = rest[row - 1] as f64 * scale;
            if worst(first, *next as f64 * scale, with, side) > worst(first, last, sum, side) {
                break;
            }
            sum = with;
            row += 1;
        }
        let (now, later) = rest.split_at(row);
        // The row stands along the shorter side.
        let depth = if side > 0.0 { sum / side } else { 0.0 };
        let mut at = 0.0;
        for size in now {
            let length = if depth > 0.0 { *size as f64 * scale / depth } else { 0.0 };
            rects.push(if free.w >= free.h {
                Rect { x: free.x, y: free.y + at, w: depth, h: length }
            } else {
                Rect { x: free.x + at, y: free.y, w: length, h: depth }
            });
            at += length;
        }
        if free.w >= free.h {
            free = Rect { x: free.x + depth, w: (free.w - depth).max(0.0), ..free };
        } else {
            free = Rect { y: free.y + depth, h: (free.h - depth).max(0.0), ..free };
        }
        rest = later;
    }
    rects
}

/// How far from a square the worst of a row is that has these largest and smallest areas.
fn worst(largest: f64, smallest: f64, sum: f64, side: f64) -> f64 {
    let (side, sum) = (side * side, sum * sum);
    if smallest <= 0.0 || side <= 0.0 {
        return f64::INFINITY;
    }
    (side * largest / sum).max(sum / (side * smallest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AREA: Rect = Rect { x: 10.0, y: 20.0, w: 600.0, h: 400.0 };

    #[test]
    fn the_usual_example() {
        let area = Rect { x: 0.0, y: 0.0, w: 6.0, h: 4.0 };
        let rects = squarify(&[6, 6, 4, 3, 2, 2, 1], area);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(rects[0].w, 3.0) && close(rects[0].h, 2.0) && close(rects[1].y, 2.0));
        assert!(rects.iter().all(|rect| (rect.w / rect.h).max(rect.h / rect.w) < 3.5));
    }

    #[test]
    fn nothing_gets_nothing() {
        assert_eq!(squarify(&[], AREA), []);
        assert!(squarify(&[0, 0], AREA).iter().all(|rect| rect.w * rect.h == 0.0));
        let flat = Rect { h: 0.0, ..AREA };
        assert!(squarify(&[2, 1], flat).iter().all(|rect| rect.w * rect.h == 0.0));
    }

    proptest! {
        #[test]
        fn areas_are_in_proportion_and_inside(mut sizes in prop::collection::vec(0u64..1 << 40, 1..40)) {
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            let total: u64 = sizes.iter().sum();
            let rects = squarify(&sizes, AREA);
            prop_assert_eq!(rects.len(), sizes.len());
            for (size, rect) in sizes.iter().zip(&rects) {
                prop_assert!(rect.x > 9.99 && rect.y > 19.99 && rect.x + rect.w < 610.01 && rect.y + rect.h < 420.01);
                if total > 0 {
                    let expected = *size as f64 / total as f64 * AREA.w * AREA.h;
                    prop_assert!((rect.w * rect.h - expected).abs() < 0.1, "{} {}", rect.w * rect.h, expected);
                }
            }
        }
    }
}
