//! What does not reach an output.

use std::fmt;

use keyferry_rdb::ModuleId;
use keyferry_rdb::convert::Loss;

/// Something of an input that an output has no place for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// A value, or part of it. The key may have been written without it: the loss says.
    Value(Loss),
    /// A value of a module that the target is not said to have: a server without it refuses the whole file.
    Module(ModuleId),
    /// A vector set in the form of Redis 8.0.3 and later, which earlier releases refuse with the whole file.
    VectorSet,
    /// A key of another database than 0, which a cluster does not have.
    Database,
    /// A library of functions: the target has none.
    Function,
    /// Data of a module that belongs to no key.
    ModuleData(ModuleId),
    /// A slot migration that was under way (Valkey 9): a snapshot for another server is no place for it.
    SlotImport,
}

impl Lost {
    /// A short fixed name of the kind of loss, for counting.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Value(loss) => loss.name(),
            Self::Module(_) => "value of a module",
            Self::VectorSet => "vector set",
            Self::Database => "database of a cluster",
            Self::Function => "function library",
            Self::ModuleData(_) => "module data beside keys",
            Self::SlotImport => "slot migration under way",
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(loss) => fmt::Display::fmt(loss, f),
            Self::Module(module) => {
                write!(f, "a value of module {module}, which the target is not said to have")
            }
            Self::VectorSet => f.write_str(
                "a vector set in the form of Redis 8.0.3, which 8.0.2 refuses: name the target's patch release",
            ),
            Self::Database => f.write_str("a key outside of database 0, the only one of a cluster"),
            Self::Function => f.write_str("a library of functions: the target has none"),
            Self::ModuleData(module) => write!(f, "data of module {module} that belongs to no key"),
            Self::SlotImport => f.write_str("the state of a slot migration that was under way"),
        }
    }
}

/// The modules that a target has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Modules {
    /// Those of the input, whatever they are: for a target of the same kind.
    #[default]
    All,
    /// Those of these type names, nine characters each, such as `ReJSON-RL`.
    Named(Vec<String>),
}

impl Modules {
    /// Whether it has this one.
    pub fn has(&self, module: ModuleId) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name.as_bytes() == module.name()),
        }
    }
}
