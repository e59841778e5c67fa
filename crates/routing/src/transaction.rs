use std::collections::HashMap;

use keyferry_resp::Command;

use crate::route::Route;
use crate::table::CommandTable;

/// A step of a transaction that is carried out slot by slot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// These commands, in this order, in one transaction at the owner of the slot.
    Slot {
        /// The slot of all their keys.
        slot: u16,
        /// What stood between MULTI and EXEC for that slot, with the parts of commands that were split.
        commands: Vec<Command>,
    },
    /// A command of another route, alone, when all steps before it are done and before any step after it.
    Other {
        /// The command as it was.
        command: Command,
        /// Its route: neither `Slot` nor `Split`.
        route: Route,
    },
}

impl CommandTable {
    /// Divides the commands between `MULTI` and `EXEC` by slot. If the plan is one step, the transaction stays one; else it is
    /// atomic for each step only.
    ///
    /// The commands of a slot keep their order. Steps of different slots between two [`Step::Other`] may be done in any order, as
    /// they have no key in common.
    ///
    /// ```
    /// use keyferry_resp::Command;
    /// use keyferry_routing::{CommandTable, Step, slot};
    ///
    /// let commands = [Command::new(["INCR", "foo"]), Command::new(["DEL", "bar", "foo"])];
    /// let plan = CommandTable::builtin().plan_transaction(&commands);
    /// let foo = vec![Command::new(["INCR", "foo"]), Command::new(["DEL", "foo"])];
    /// let bar = vec![Command::new(["DEL", "bar"])];
    /// assert_eq!(plan, [
    ///     Step::Slot { slot: slot(b"foo"), commands: foo },
    ///     Step::Slot { slot: slot(b"bar"), commands: bar },
    /// ]);
    /// ```
    pub fn plan_transaction(&self, commands: &[Command]) -> Vec<Step> {
        let mut plan = Plan { steps: Vec::new(), open: HashMap::new() };
        for command in commands {
            match self.route(command) {
                Route::Slot(slot) => plan.add(slot, command.clone()),
                Route::Split(split) => {
                    split.parts.into_iter().for_each(|part| plan.add(part.slot, part.command));
                }
                route => {
                    plan.steps.push(Step::Other { command: command.clone(), route });
                    plan.open.clear();
                }
            }
        }
        plan.steps
    }
}

struct Plan {
    steps: Vec<Step>,
    /// The step of each slot that has one behind the last `Step::Other`.
    open: HashMap<u16, usize>,
}

impl Plan {
    fn add(&mut self, slot: u16, command: Command) {
        let at = *self.open.entry(slot).or_insert(self.steps.len());
        match self.steps.get_mut(at) {
            Some(Step::Slot { commands, .. }) => commands.push(command),
            _ => self.steps.push(Step::Slot { slot, commands: vec![command] }),
        }
    }
}
