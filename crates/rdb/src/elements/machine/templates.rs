//! Hashes whose field names stand in a template (RDB 15).

use std::sync::Arc;

use super::{Fault, Found, Input, Machine, State, Turn, lens, need, string};
use crate::blob::Scalar;
use crate::elements::element::Sources;
use crate::elements::templates::FieldNames;
use crate::types::ValueType;

impl Machine {
    pub(super) fn start_template(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let ([form], size) = need!(lens(input.rest()));
        match form {
            0 => {
                let (head, len) = need!(string(&input.rest()[size..], self.limits.element));
                input.at += size;
                self.open(input, head)?;
                input.at += len;
                let mut names = FieldNames::default();
                while let Some(name) = self.scalar(input)? {
                    match name {
                        Scalar::Bytes(name) => names.push_name(name),
                        Scalar::Int(n) => names.push_name(itoa::Buffer::new().format(n).as_bytes()),
                    }
                }
                self.close();
                self.set_names(Arc::new(names));
                self.left = 0;
            }
            1 => {
                let ([n], more) = need!(lens(&input.rest()[size..]));
                input.at += size + more;
                self.left = n;
            }
            _ => return Err(Fault::Bad("the field names of a template are in no known form")),
        }
        self.state = State::TemplateNames;
        Ok(Turn::Next)
    }

    pub(super) fn template_name(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let Some(left) = self.left.checked_sub(1) else {
            let names = self.names.get_or_insert_default();
            if names.len() == 0 {
                return Err(Fault::Bad("a template has no field names"));
            }
            if !names.is_sorted() {
                return Err(Fault::Bad(
                    "the field names of a template are not in order, or one is there twice",
                ));
            }
            self.left = names.len() as u64;
            self.state = match self.ty {
                ValueType::HashTemplateListpack => State::TemplateBlob,
                _ => State::TemplateValues,
            };
            return Ok(Turn::Next);
        };
        let name = need!(self.text(input));
        self.is_rare = true;
        let sources = Sources { input: input.bytes, blob: &[], scratch: &self.scratch };
        // While the names are gathered nobody else has them.
        let names = Arc::make_mut(self.names.get_or_insert_default());
        names.push_name(sources.get(name));
        let (claimed, limit) = (names.size() as u64, self.limits.element as u64);
        if claimed > limit {
            return Err(Fault::Limit { what: "size of the field names of a template", claimed, limit });
        }
        self.left = left;
        Ok(Turn::Next)
    }

    pub(super) fn look_up(&mut self, id: u64) -> Result<(), Fault> {
        let names = self.templates.as_ref().and_then(|known| known.get(id)).ok_or(Fault::Template(id))?;
        self.left = names.len() as u64;
        self.set_names(names);
        Ok(())
    }

    fn set_names(&mut self, names: Arc<FieldNames>) {
        self.is_rare = true;
        self.names = Some(names);
    }

    pub(super) fn template_blob(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        let (head, size) = need!(string(input.rest(), self.limits.element));
        self.open(input, head)?;
        input.at += size;
        let id = match self.scalar(input)? {
            Some(Scalar::Int(id)) => id as u64,
            _ => return Err(Fault::Bad("a hash by template does not start with the template's number")),
        };
        // In the self-contained form the number means nothing.
        if self.ty == ValueType::HashTemplateListpackRef {
            self.look_up(id)?;
        }
        self.state = State::TemplateListpack;
        Ok(Turn::Next)
    }

    pub(super) fn template_value(&mut self, input: &mut Input<'_>) -> Result<Turn, Fault> {
        const COUNT: &str = "a hash by template has another number of values than field names";
        let value = if self.state == State::TemplateListpack {
            match (self.scalar_loc(input)?, self.left) {
                (Some(value), 1..) => value,
                (None, 0) => {
                    self.close();
                    return Ok(self.done());
                }
                _ => return Err(Fault::Bad(COUNT)),
            }
        } else if self.left == 0 {
            return Ok(self.done());
        } else {
            need!(self.text(input))
        };
        self.left -= 1;
        let name = self.next_name;
        self.next_name += 1;
        Ok(Turn::Found(Found::TemplateField { name, value }))
    }
}
