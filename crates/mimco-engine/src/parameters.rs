//! All parameters of a model as named ranges of one flat buffer, with a table of learning rate and decay a range.

use crate::cpu::buffer::Buffer;
use crate::cpu::matmul::{Operand, Panels, Precision, Values};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A parameter's place in the table of its [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterId(usize);

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The parameter's name, as timm calls it.
    pub name: String,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// Where its elements lie in the flat buffer.
    pub range: Range<usize>,
    /// Whether it gets a gradient and is updated.
    pub trainable: bool,
    /// Factor of the run's weight decay: 0 for biases, norms, positions, tokens where the recipe spares them.
    pub decay: f32,
    /// Factor of the run's learning rate.
    pub rate: f32,
}

/// Named parameters in one flat buffer. Gradients and moments are buffers of the same length.
#[derive(Default)]
pub struct Parameters {
    entries: Vec<Entry>,
    values: Option<Buffer>,
    len: usize,
    precision: Precision,
    packed: Mutex<Vec<Option<Arc<Panels>>>>,
}

impl Clone for Parameters {
    fn clone(&self) -> Parameters {
        let packed = Mutex::default(); // each packs its own
        Parameters { entries: self.entries.clone(), values: self.values.clone(), len: self.len, precision: self.precision, packed }
    }
}

impl Parameters {
    /// An empty table.
    pub fn new() -> Parameters {
        Parameters::default()
    }

    /// Adds a parameter of zeros, trainable, with decay for matrices alone (two and more dimensions above 1).
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> ParameterId {
        let elements: usize = shape.iter().product();
        let range = self.len..self.len + elements;
        // Every range begins on a cache line; the gap stays 0.
        self.len = range.end.next_multiple_of(16);
        let decay = if shape.iter().filter(|&&n| n > 1).count() >= 2 { 1.0 } else { 0.0 };
        self.entries.push(Entry { name: name.into(), shape: shape.to_vec(), range, trainable: true, decay, rate: 1.0 });
        self.values.get_or_insert_with(|| Buffer::zeros(0)).grow(self.len);
        self.unpack();
        ParameterId(self.entries.len() - 1)
    }

    /// Makes room for parameters of these sizes, which are to be added: a large table is not moved while it grows.
    pub fn reserve<'a>(&mut self, shapes: impl Iterator<Item = &'a [usize]>) {
        let more: usize = shapes.map(|shape| shape.iter().product::<usize>().next_multiple_of(16)).sum();
        let len = self.len + more;
        self.values.get_or_insert_with(|| Buffer::zeros(0)).reserve(len);
    }

    /// The table, in the order of the buffer.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One row of the table.
    pub fn entry(&self, id: ParameterId) -> &Entry {
        &self.entries[id.0]
    }

    /// One row of the table, to change its rate, decay or trainability.
    pub fn entry_mut(&mut self, id: ParameterId) -> &mut Entry {
        &mut self.entries[id.0]
    }

    /// The table's rows, to change rates, decays or trainability.
    pub fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// The parameter of this name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.entries.iter().position(|e| e.name == name).map(ParameterId)
    }

    /// A parameter's elements.
    pub fn get(&self, id: ParameterId) -> &[f32] {
        &self.flat()[self.entries[id.0].range.clone()]
    }

    /// What products with these parameters are worked out in, and activations kept in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Changes the precision of products and activations; the parameters themselves stay in f32.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
        self.unpack();
    }

    /// A parameter [outputs, ...], a matrix W with a row an output, packed as the right factor of x Wᵀ; once for as long as nothing
    /// changes.
    pub fn panels(&self, id: ParameterId) -> Arc<Panels> {
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        packed.resize(self.entries.len(), None);
        packed[id.0].get_or_insert_with(|| Arc::new(Panels::of_transpose(self.matrix(id), self.precision))).clone()
    }

    /// The same, not packed.
    pub fn matrix(&self, id: ParameterId) -> Operand<'_> {
        let (values, outputs) = (self.get(id), self.entry(id).shape[0]);
        Operand::new(Values::F32(values), outputs, values.len() / outputs.max(1))
    }

    /// Forgets what was packed; whoever may change elements calls it.
    fn unpack(&mut self) {
        self.packed.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A parameter's elements, to write.
    pub fn get_mut(&mut self, id: ParameterId) -> &mut [f32] {
        let range = self.entries[id.0].range.clone();
        &mut self.flat_mut()[range]
    }

    /// The flat buffer.
    pub fn flat(&self) -> &[f32] {
        self.values.as_deref().unwrap_or(&[])
    }

    /// The flat buffer, to write.
    pub fn flat_mut(&mut self) -> &mut [f32] {
        self.unpack();
        self.values.as_deref_mut().unwrap_or(&mut [])
    }

    /// Table and flat buffer at once, for optimizers.
    pub(crate) fn split_mut(&mut self) -> (&[Entry], &mut [f32]) {
        self.unpack();
        (&self.entries, self.values.as_deref_mut().unwrap_or(&mut []))
    }

    /// A gradient or moment buffer: zeros, as long as the flat buffer.
    pub fn zeros_like(&self) -> Buffer {
        Buffer::zeros(self.len)
    }

    /// Number of elements of the trainable parameters.
    pub fn trainable_elements(&self) -> usize {
        self.entries.iter().filter(|e| e.trainable).map(|e| e.range.len()).sum()
    }
}
