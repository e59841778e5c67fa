//! Patterns of Lua, matched with a bound on the work.
//!
//! Lua's own functions for patterns cannot be interrupted, and a short pattern may keep them busy for years. These give the same
//! results, and count their steps; what is no pattern is refused even where Lua would not come so far as to see it. Letters and the like are those of ASCII, as in the C locale.

/// Most parts that a pattern may have: as deep as the search may nest.
const MOST_ITEMS: usize = 250;

/// Most captures, as in Lua.
const MOST_CAPTURES: usize = 32;

/// Why a pattern was not matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It is none.
    Malformed(&'static str),
    /// The work went beyond its bound.
    Exhausted,
}

/// What takes the cost of steps; false when there is nothing left.
pub(super) trait Budget {
    fn spend(&self, steps: u64) -> bool;
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    items: Vec<Item>,
    anchored: bool,
}

#[derive(Clone, Debug)]
enum Item {
    Single(Set, Times),
    Open {
        position: bool,
    },
    Close,
    /// What a capture holds, by its number from 0.
    Again(usize),
    Balanced(u8, u8),
    Frontier(Set),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Once,
    Maybe,
    Most,
    Least,
}

/// Some bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Set([u64; 4]);

impl Set {
    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    fn add_where(&mut self, is: impl Fn(u8) -> bool) {
        (0..=u8::MAX).filter(|&byte| is(byte)).for_each(|byte| self.add(byte));
    }

    /// What a letter behind `%` stands for.
    fn add_class(&mut self, letter: u8) {
        let not = letter.is_ascii_uppercase();
        let is: fn(u8) -> bool = match letter.to_ascii_lowercase() {
            b'a' => |b| b.is_ascii_alphabetic(),
            b'c' => |b| b.is_ascii_control(),
            b'd' => |b| b.is_ascii_digit(),
            b'g' => |b| b.is_ascii_graphic(),
            b'l' => |b| b.is_ascii_lowercase(),
            b'p' => |b| b.is_ascii_punctuation(),
            b's' => |b| matches!(b, b' ' | 9..=13),
            b'u' => |b| b.is_ascii_uppercase(),
            b'w' => |b| b.is_ascii_alphanumeric(),
            b'x' => |b| b.is_ascii_hexdigit(),
            // Of older versions, and still there.
            b'z' => |b| b == 0,
            _ => return self.add(letter),
        };
        self.add_where(|byte| is(byte) != not);
    }
}

/// What a capture holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    /// These bytes of the subject.
    Range(usize, usize),
    /// A place in it, from 0.
    Position(usize),
}

/// A match: its first byte, the byte behind it, and what was captured.
pub(super) type Found = (usize, usize, Vec<Capture>);

impl Pattern {
    /// Compiles a pattern; `anchors` tells whether `^` at its beginning is an anchor.
    pub(super) fn new(text: &[u8], anchors: bool) -> Result<Self, Failed> {
        let anchored = anchors && text.first() == Some(&b'^');
        let mut at = usize::from(anchored);
        let mut items = Vec::new();
        let (mut open, mut captures) = (0, 0);
        while let Some(&first) = text.get(at) {
            if items.len() >= MOST_ITEMS {
                return Err(Failed::Malformed("the pattern is too long"));
            }
            let second = text.get(at + 1).copied();
            match (first, second) {
                (b'(', _) => {
                    let position = second == Some(b')');
                    captures += 1;
                    if captures > MOST_CAPTURES {
                        return Err(Failed::Malformed("too many captures"));
                    }
                    open += usize::from(!position);
                    items.push(Item::Open { position });
                    at += if position { 2 } else { 1 };
                }
                (b')', _) => {
                    if open == 0 {
                        return Err(Failed::Malformed("invalid pattern capture"));
                    }
                    open -= 1;
                    items.push(Item::Close);
                    at += 1;
                }
                (b'$', None) => {
                    items.push(Item::End);
                    at += 1;
                }
                (b'%', Some(b'b')) => {
                    let (Some(&x), Some(&y)) = (text.get(at + 2), text.get(at + 3)) else {
                        return Err(Failed::Malformed("missing arguments to '%b'"));
                    };
                    items.push(Item::Balanced(x, y));
                    at += 4;
                }
                (b'%', Some(b'f')) => {
                    if text.get(at + 2) != Some(&b'[') {
                        return Err(Failed::Malformed("missing '[' after '%f' in pattern"));
                    }
                    let (set, behind) = single(text, at + 2)?;
                    items.push(Item::Frontier(set));
                    at = behind;
                }
                (b'%', Some(digit @ b'0'..=b'9')) => {
                    let Some(number) = usize::from(digit).checked_sub(usize::from(b'1')) else {
                        return Err(Failed::Malformed("invalid capture index"));
                    };
                    items.push(Item::Again(number));
                    at += 2;
                }
                _ => {
                    let (set, behind) = single(text, at)?;
                    at = behind + 1;
                    match text.get(behind) {
                        Some(b'?') => items.push(Item::Single(set, Times::Maybe)),
                        Some(b'*') => items.push(Item::Single(set, Times::Most)),
                        Some(b'-') => items.push(Item::Single(set, Times::Least)),
                        Some(b'+') => {
                            items.push(Item::Single(set, Times::Once));
                            items.push(Item::Single(set, Times::Most));
                        }
                        _ => {
                            items.push(Item::Single(set, Times::Once));
                            at = behind;
                        }
                    }
                }
            }
        }
        if open > 0 {
            return Err(Failed::Malformed("unfinished capture"));
        }
        Ok(Pattern { items, anchored })
    }

    /// Whether it matches at one place only.
    pub(super) fn is_anchored(&self) -> bool {
        self.anchored
    }

    /// The first match from this byte on; only just there where the pattern is anchored.
    pub(super) fn find(
        &self,
        text: &[u8],
        from: usize,
        budget: &dyn Budget,
    ) -> Result<Option<Found>, Failed> {
        let last = if self.anchored { from } else { text.len() };
        for start in from..=last {
            if let Some(found) = self.at(text, start, budget)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The match that begins just there.
    pub(super) fn at(&self, text: &[u8], start: usize, budget: &dyn Budget) -> Result<Option<Found>, Failed> {
        let mut search = Search { items: &self.items, text, budget, captures: Vec::new() };
        let end = search.go(0, start)?;
        Ok(end.map(|end| {
            let captures = search.captures.iter().map(|&(at, end)| match end {
                End::Position => Capture::Position(at),
                End::At(end) => Capture::Range(at, end),
                End::Open => Capture::Range(at, at),
            });
            (start, end, captures.collect())
        }))
    }
}

/// A class of one character that begins here, and where it ends.
fn single(text: &[u8], at: usize) -> Result<(Set, usize), Failed> {
    let mut set = Set::default();
    match (text.get(at), text.get(at + 1)) {
        (Some(b'.'), _) => set.add_where(|_| true),
        (Some(b'%'), Some(&letter)) => {
            set.add_class(letter);
            return Ok((set, at + 2));
        }
        (Some(b'%'), None) => return Err(Failed::Malformed("malformed pattern (ends with '%')")),
        (Some(b'['), _) => return bracket(text, at + 1),
        (Some(&byte), _) => set.add(byte),
        (None, _) => {}
    }
    Ok((set, at + 1))
}

/// `[set]`, from behind the bracket on.
fn bracket(text: &[u8], mut at: usize) -> Result<(Set, usize), Failed> {
    const MISSING: Failed = Failed::Malformed("malformed pattern (missing ']')");
    let mut set = Set::default();
    let not = text.get(at) == Some(&b'^');
    at += usize::from(not);
    // Where it ends is told without looking at ranges.
    let mut end = at;
    loop {
        let &byte = text.get(end).ok_or(MISSING)?;
        end += if byte == b'%' { 2 } else { 1 };
        if *text.get(end).ok_or(MISSING)? == b']' {
            break;
        }
    }
    while at < end {
        let byte = text[at];
        if byte == b'%' {
            set.add_class(text[at + 1]);
            at += 2;
        } else if text[at + 1] == b'-' && at + 2 < end {
            let to = text[at + 2];
            set.add_where(|b| (byte..=to).contains(&b));
            at += 3;
        } else {
            set.add(byte);
            at += 1;
        }
    }
    if not {
        set.0.iter_mut().for_each(|bits| *bits = !*bits);
    }
    Ok((set, end + 1))
}

/// Where a capture ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Position,
    At(usize),
}

struct Search<'s> {
    items: &'s [Item],
    text: &'s [u8],
    budget: &'s dyn Budget,
    captures: Vec<(usize, End)>,
}

impl Search<'_> {
    fn spend(&self, steps: usize) -> Result<(), Failed> {
        if self.budget.spend(steps as u64) { Ok(()) } else { Err(Failed::Exhausted) }
    }

    fn is(&self, set: &Set, at: usize) -> bool {
        self.text.get(at).is_some_and(|&byte| set.has(byte))
    }

    /// The end of the match of all items from this one on. It nests once an item at most.
    fn go(&mut self, mut item: usize, mut at: usize) -> Result<Option<usize>, Failed> {
        let items = self.items;
        loop {
            self.spend(1)?;
            let Some(now) = items.get(item) else { return Ok(Some(at)) };
            item += 1;
            match now {
                Item::Single(set, Times::Once) => {
                    if !self.is(set, at) {
                        return Ok(None);
                    }
                    at += 1;
                }
                Item::Single(set, Times::Maybe) => {
                    if self.is(set, at)
                        && let Some(end) = self.go(item, at + 1)?
                    {
                        return Ok(Some(end));
                    }
                }
                Item::Single(set, Times::Most) => {
                    let mut most = 0;
                    while self.is(set, at + most) {
                        most += 1;
                    }
                    self.spend(most)?;
                    for count in (0..=most).rev() {
                        if let Some(end) = self.go(item, at + count)? {
                            return Ok(Some(end));
                        }
                    }
                    return Ok(None);
                }
                Item::Single(set, Times::Least) => loop {
                    if let Some(end) = self.go(item, at)? {
                        return Ok(Some(end));
                    }
                    if !self.is(set, at) {
                        return Ok(None);
                    }
                    at += 1;
                },
                Item::Open { position } => {
                    let end = if *position { End::Position } else { End::Open };
                    self.captures.push((at, end));
                    let found = self.go(item, at)?;
                    if found.is_none() {
                        self.captures.pop();
                    }
                    return Ok(found);
                }
                Item::Close => {
                    let Some(open) = self.captures.iter().rposition(|(_, end)| *end == End::Open) else {
                        return Err(Failed::Malformed("invalid pattern capture"));
                    };
                    self.captures[open].1 = End::At(at);
                    let found = self.go(item, at)?;
                    if found.is_none() {
                        self.captures[open].1 = End::Open;
                    }
                    return Ok(found);
                }
                Item::Again(number) => {
                    let held = match self.captures.get(*number) {
                        Some(&(from, End::At(to))) => &self.text[from..to],
                        Some(&(_, End::Position)) => return Ok(None),
                        _ => return Err(Failed::Malformed("invalid capture index")),
                    };
                    self.spend(held.len())?;
                    if !self.text[at..].starts_with(held) {
                        return Ok(None);
                    }
                    at += held.len();
                }
                Item::Balanced(x, y) => {
                    if self.text.get(at) != Some(x) {
                        return Ok(None);
                    }
                    let mut depth = 1usize;
                    let rest = self.text[at + 1..].iter().position(|byte| {
                        if byte == y {
                            depth -= 1;
                        } else if byte == x {
                            depth += 1;
                        }
                        depth == 0
                    });
                    self.spend(rest.unwrap_or(self.text.len() - at))?;
                    match rest {
                        Some(rest) => at += rest + 2,
                        None => return Ok(None),
                    }
                }
                Item::Frontier(set) => {
                    let before = at.checked_sub(1).and_then(|at| self.text.get(at)).copied().unwrap_or(0);
                    let now = self.text.get(at).copied().unwrap_or(0);
                    if set.has(before) || !set.has(now) {
                        return Ok(None);
                    }
                }
                Item::End => {
                    if at != self.text.len() {
                        return Ok(None);
                    }
                }
            }
        }
    }
}
