//! Why a filter does not know what to do with a command or a key.

/// Why a filter does not know what to do with a command or a key. Nothing is lost: whoever asked is to stop, or to change the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Which keys the command has cannot be told.
    #[error(
        "{0}; whether the rules of the filter let it through cannot be told: leave it out by a rule about commands"
    )]
    Keys(#[from] keyferry_routing::KeysError),
    /// What a key gets comes from one that is left out.
    #[error(
        "it puts into \"{key}\" what comes from \"{operand}\", which is left out ({rule}), so the target has no such \
         value: let {operand:?} through, leave \"{key}\" out, or choose that such keys lack what they got that way \
         and are told in the report (--left-out-operands report)"
    )]
    Operand {
        /// The key that is written.
        key: String,
        /// The key that is left out.
        operand: String,
        /// The rule by which it is.
        rule: String,
    },
    /// A key is left out or not by its type, and the command does not tell it.
    #[error(
        "whether it is to be carried out depends on the type of \"{key}\", which it does not tell: give {key:?} a rule \
         that does not look at types, or let the types through that it may have"
    )]
    Type {
        /// The key.
        key: String,
    },
    /// It writes to keys that are in and to keys that are out.
    #[error(
        "it writes to \"{kept}\" and to \"{left_out}\", which is left out, and cannot be divided: let both through, or \
         leave both out"
    )]
    Undivided {
        /// A key that is in.
        kept: String,
        /// A key that is out.
        left_out: String,
    },
    /// A script that tells no keys may write to any.
    #[error(
        "a script that names no keys may write to any, so the rules cannot be kept: leave it out by a rule about commands"
    )]
    Undeclared,
    /// BY and GET of SORT read keys by pattern.
    #[error("a pattern of SORT may mean keys that are left out or renamed")]
    SortPattern,
    /// `SWAPDB` of databases with different rules.
    #[error("the rules treat databases {0} and {1} differently, so they cannot be exchanged at the target")]
    Exchange(String, String),
    /// Two keys of the source may become one.
    #[error(
        "the key \"{key}\" becomes \"{name}\", and so would \"{other}\": leave one of them out, or choose that the later one wins \
         (--name-collisions allow)"
    )]
    Collision {
        /// The key.
        key: String,
        /// The other one, which need not exist.
        other: String,
        /// The name of both at the target.
        name: String,
    },
    /// A new name has another hash tag.
    #[error(
        "the key \"{key}\" becomes \"{name}\", which has another hash tag: keys that were together in a slot would not be \
         together any more; change the renaming, or choose that this is right (--changed-hash-tags allow)"
    )]
    Tag {
        /// The key.
        key: String,
        /// Its name at the target.
        name: String,
    },
    /// The target has had the key before, and that is to end the run.
    #[error("the key \"{key}\" is at the target already, and the run is to end then (--on-exists fail)")]
    Exists {
        /// The key, by its name at the source.
        key: String,
    },
    /// Values of the key are masked, and what the command makes of them cannot be told.
    #[error(
        "values of \"{key}\" are masked, and what it makes of them cannot be told: leave the key or the command out, let all its \
         keys have the same masks, or choose that such changes are left out and told in the report (--masked-parts report)"
    )]
    Masked {
        /// The key.
        key: String,
    },
    /// Values of the key are to be masked, and its type is one whose values cannot be.
    #[error(
        "values of \"{key}\" are to be masked, and those of its type ({kind}) cannot be: leave it out, or choose that such keys are \
         left out and told in the report (--masked-parts report)"
    )]
    MaskedType {
        /// The key.
        key: String,
        /// The type of its value.
        kind: &'static str,
    },
    /// A mask makes one member of several.
    #[error(
        "members of \"{key}\" are to be masked by {rule}, which would make one of several: sets and sorted sets need a mask that keeps \
         values apart (hash)"
    )]
    MaskMerges {
        /// The key.
        key: String,
        /// The rule.
        rule: String,
    },
    /// Too many keys were left out by what their values are like.
    #[error(
        "more than {most} keys were left out by size, expiry or idle time, and each has to be remembered for the \
         commands that follow: choose by name or type instead"
    )]
    TooManyLeftOut {
        /// The limit.
        most: usize,
    },
}
