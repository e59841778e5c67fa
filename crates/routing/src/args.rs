use keyferry_resp::{Command, CommandRef};

/// The arguments of a command, the name first.
///
/// What this crate reads commands through: those of keyferry-resp, slices, arrays and vectors of anything that is bytes.
pub trait Arguments {
    /// How many arguments there are, the name included.
    fn count(&self) -> usize;

    /// Argument `index`; 0 is the name. `None` from [`count`](Self::count) on.
    fn argument(&self, index: usize) -> Option<&[u8]>;
}

impl Arguments for Command {
    #[inline]
    fn count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn argument(&self, index: usize) -> Option<&[u8]> {
        self.arg(index)
    }
}

impl Arguments for CommandRef<'_> {
    #[inline]
    fn count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn argument(&self, index: usize) -> Option<&[u8]> {
        self.arg(index)
    }
}

impl<T: AsRef<[u8]>> Arguments for [T] {
    #[inline]
    fn count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn argument(&self, index: usize) -> Option<&[u8]> {
        self.get(index).map(AsRef::as_ref)
    }
}

impl<T: AsRef<[u8]>, const N: usize> Arguments for [T; N] {
    #[inline]
    fn count(&self) -> usize {
        N
    }

    #[inline]
    fn argument(&self, index: usize) -> Option<&[u8]> {
        self.get(index).map(AsRef::as_ref)
    }
}

impl<T: AsRef<[u8]>> Arguments for Vec<T> {
    #[inline]
    fn count(&self) -> usize {
        self.len()
    }

    #[inline]
    fn argument(&self, index: usize) -> Option<&[u8]> {
        self.get(index).map(AsRef::as_ref)
    }
}

impl<A: Arguments + ?Sized> Arguments for &A {
    #[inline]
    fn count(&self) -> usize {
        (**self).count()
    }

    #[inline]
    fn argument(&self, index: usize) -> Option<&[u8]> {
        (**self).argument(index)
    }
}

/// Argument `index`, or nothing where there is none.
#[inline]
pub(crate) fn at<A: Arguments + ?Sized>(args: &A, index: usize) -> &[u8] {
    args.argument(index).unwrap_or_default()
}

/// Whether argument `index` is this word, in any letter case.
#[inline]
pub(crate) fn is_word<A: Arguments + ?Sized>(args: &A, index: usize, word: &[u8]) -> bool {
    at(args, index).eq_ignore_ascii_case(word)
}

/// All arguments in order.
pub(crate) fn all<A: Arguments + ?Sized>(args: &A) -> impl ExactSizeIterator<Item = &[u8]> {
    (0..args.count()).map(|index| at(args, index))
}
