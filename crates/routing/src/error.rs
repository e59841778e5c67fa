/// Why the keys of a command cannot be told.
///
/// The caller's input is at fault in each case: a server refuses such a command, too, unless it knows commands that this
/// table does not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The command, or the subcommand, is not in the table.
    #[error("unknown command '{name}': ask the server for it with COMMAND INFO")]
    UnknownCommand {
        /// Its name, with the subcommand if it has one, escaped and cut to 64 bytes each.
        name: String,
    },
    /// The command takes more arguments, or fewer.
    #[error("wrong number of arguments for '{name}': {count} with the name")]
    WrongArity {
        /// The name in the table.
        name: String,
        /// The arguments that there are, the name included.
        count: usize,
    },
    /// The number of keys is no number, or there are not so many arguments.
    #[error("'{name}' has no valid number of keys in argument {index}")]
    BadKeyCount {
        /// The name in the table.
        name: String,
        /// The argument that should tell it; 0 is the name.
        index: usize,
    },
    /// The arguments contradict each other, or one is missing where a key should be.
    #[error("'{name}' has no key where one should be")]
    NoKey {
        /// The name in the table.
        name: String,
    },
    /// The server that the command was learned from does not describe where its keys are.
    #[error("the keys of '{name}' are not described: ask the server with COMMAND GETKEYS")]
    NotDescribed {
        /// The name in the table.
        name: String,
    },
}
