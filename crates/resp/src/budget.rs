use crate::{DecodeError, Limits};

/// What a frame may cost, whether it is built or skipped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget {
    pub(crate) limits: Limits,
    /// Offset at which the frame in progress begins.
    start: u64,
    /// Elements of the frame in progress, counted when they are announced.
    elements: u64,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// A new frame begins at this offset.
    #[inline]
    pub(crate) fn begin(&mut self, offset: u64) {
        self.start = offset;
        self.elements = 0;
    }

    /// Whether an element that ends at this offset keeps its frame within the limit.
    #[inline]
    pub(crate) fn fits(&self, end: u64) -> bool {
        end - self.start <= self.limits.max_frame_bytes() as u64
    }

    /// Judges an element at `offset` that takes `bytes`.
    pub(crate) fn frame_size(&self, offset: u64, bytes: u64) -> Result<(), DecodeError> {
        if self.fits(offset.saturating_add(bytes)) {
            return Ok(());
        }
        Err(DecodeError::FrameTooLong { offset, limit: self.limits.max_frame_bytes() })
    }

    /// Judges a string at `offset` that announces `len` bytes behind its header of `header` bytes, after `before`
    /// bytes in earlier chunks.
    pub(crate) fn string(
        &self,
        offset: u64,
        header: u64,
        len: u64,
        before: u64,
    ) -> Result<usize, DecodeError> {
        let limit = self.limits.max_bulk_bytes();
        let announced = len.saturating_add(before);
        let fitting = match usize::try_from(len) {
            Ok(fitting) if announced <= limit as u64 => fitting,
            _ => return Err(DecodeError::BulkTooLong { offset, announced, limit }),
        };
        self.frame_size(offset, header.saturating_add(len).saturating_add(2))?;
        Ok(fitting)
    }

    /// Judges and counts an aggregate at `offset` that announces this many elements inside `depth` others.
    pub(crate) fn aggregate(&mut self, offset: u64, depth: usize, elements: u64) -> Result<(), DecodeError> {
        let limit = self.limits.max_nesting();
        if depth >= limit {
            return Err(DecodeError::TooDeep { offset, limit });
        }
        self.elements(offset, elements, elements)
    }

    /// Counts `added` elements of an aggregate that has `count` with them.
    pub(crate) fn elements(&mut self, offset: u64, count: u64, added: u64) -> Result<(), DecodeError> {
        let limit = self.limits.max_elements();
        if count > limit as u64 {
            return Err(DecodeError::TooManyElements { offset, announced: count, limit });
        }
        let limit = self.limits.max_total_elements();
        self.elements = self.elements.saturating_add(added);
        if self.elements > limit as u64 {
            return Err(DecodeError::TooManyElements { offset, announced: self.elements, limit });
        }
        Ok(())
    }
}
