//! Why a message has no plain twin.

/// A message that has no plain twin: it says what no plan, result or setup can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A plan repeats the last step's rows and lists rows as well.
    #[error("step {step}: same_rows with rows")]
    SameRowsWithRows {
        /// The plan's step.
        step: u64,
    },
    /// A field of a slot lacks its value.
    #[error("slot {slot}: {field} has no value")]
    NoValue {
        /// The slot.
        slot: u32,
        /// The field.
        field: &'static str,
    },
    /// A row asks for outputs that this version does not know.
    #[error("slot {slot}: outputs {value} unknown")]
    Outputs {
        /// The row's slot.
        slot: u32,
        /// What it asks for.
        value: i32,
    },
    /// A row asks for more logprobs than a plan can say.
    #[error("slot {slot}: logprobs {value} is too large")]
    Logprobs {
        /// The row's slot.
        slot: u32,
        /// What it asks for.
        value: u32,
    },
    /// Columns of a result that are not one a row.
    #[error("step {step}: {rows} rows, token counts of {tokens}, logprob counts of {logprobs}")]
    ColumnLengths {
        /// The result's step.
        step: u64,
        /// Rows of the result.
        rows: usize,
        /// Rows whose number of tokens is given.
        tokens: usize,
        /// Rows whose number of logprobs is given.
        logprobs: usize,
    },
    /// Logprobs that are not one a token.
    #[error("step {step}: {logprobs} logprobs of {tokens} tokens")]
    LogprobTokens {
        /// The result's step.
        step: u64,
        /// Logprobs.
        logprobs: usize,
        /// Tokens that they are said to be of.
        tokens: usize,
    },
    /// A row's status that this version does not know.
    #[error("step {step}: row status {value} unknown")]
    RowStatus {
        /// The result's step.
        step: u64,
        /// The status.
        value: i32,
    },
    /// A row claims more values than its column has left.
    #[error("step {step}: a row of {len} values where {left} are left")]
    ShortColumn {
        /// The result's step.
        step: u64,
        /// Values that the row claims.
        len: u32,
        /// Values that are left.
        left: usize,
    },
    /// Values behind those of the last row.
    #[error("step {step}: {values} tokens of no row")]
    LeftOver {
        /// The result's step.
        step: u64,
        /// How many.
        values: usize,
    },
    /// A worker is not told the type of its KV cache.
    #[error("the type of the KV cache is not given")]
    KvDtype,
}
