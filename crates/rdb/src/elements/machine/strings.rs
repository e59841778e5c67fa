//! String values, in chunks.

use super::{Fault, Found, Input, Machine, State, Turn, need, token};
use crate::elements::element::Loc;
use crate::lzf::Inflater;
use crate::wire::{self, StrForm};

impl Machine {
    pub(super) fn start_string(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let head = need!(token(wire::str_head(input.rest())));
        match head.form {
            StrForm::Lzf { inflated } if inflated > self.limits.chunk as u64 => {
                input.at += head.head;
                self.is_rare = true;
                self.inflater = Some(Inflater::new(head.payload, inflated).map_err(Fault::Bad)?);
                self.state = State::Inflate;
                Ok(Turn::Next)
            }
            StrForm::Plain => {
                input.at += head.head;
                self.left = head.payload;
                self.state = State::Chunks;
                Ok(Turn::Next)
            }
            _ => {
                let loc = need!(self.text(input));
                self.state = State::Done;
                Ok(Turn::Found(Found::Chunk(loc)))
            }
        }
    }

    pub(super) fn chunk(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let len = self.left.min(self.limits.chunk as u64) as usize;
        if input.rest().len() < len {
            return Ok(Turn::Need);
        }
        let at = input.at;
        input.at += len;
        self.left -= len as u64;
        if self.left == 0 {
            self.state = State::Done;
        }
        Ok(Turn::Found(Found::Chunk(Loc::Input { at, len })))
    }

    pub(super) fn inflate_chunk(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let Some(inflater) = &mut self.inflater else { return Ok(self.done()) };
        let (used, complete) = inflater.take(input.rest(), self.limits.chunk).map_err(Fault::Bad)?;
        input.at += used;
        if !complete {
            return Ok(Turn::Need);
        }
        if inflater.is_over() {
            self.state = State::Done;
        }
        self.chunk_given = true;
        Ok(Turn::Found(Found::InflatedChunk))
    }
}
