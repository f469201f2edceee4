//! Tensors and their names in a pickle of PyTorch. Only the classes and functions in this file have
//! a meaning. All others are counted and skipped.

use super::array::Array;
use super::array::Storage;
use super::dtype::Dtype;
use super::parsed::ParsedFile;
use super::pickle::{Handle, Pickle, Value};
use super::read_error::ReadError;
use crate::interop::read::escape::printable;

/// Description of a storage in a pickle. The format determines where its bytes are.
pub(super) struct StorageId<'p> {
    /// Name of the storage.
    pub key: &'p str,
    /// Number of elements, as described and not yet checked.
    pub elements: u64,
    /// PyTorch's name of the element type.
    pub dtype: &'static str,
    /// Size of an element in bytes.
    pub size: u64,
    /// First element and number of elements, for a part of the storage.
    pub part: Option<(u64, u64)>,
}

impl<'p> StorageId<'p> {
    /// Parses `("storage", class, key, device, elements)`, in the old format with a part at the
    /// end.
    pub fn of(pickle: &'p Pickle<'_>, value: &Value<'_>) -> Option<StorageId<'p>> {
        let Value::Persistent(id) = value else { return None };
        let [kind, class, key, _, elements, rest @ ..] = pickle.items(*id)? else { return None };
        let (dtype, size) = element(pickle.global(*class)?.1)?;
        let part = match rest.first().and_then(|part| pickle.items(*part)) {
            Some([_, start, length]) => Some((pickle.int(*start)?, pickle.int(*length)?)),
            Some(_) => return None,
            None => None,
        };
        let id = StorageId { key: pickle.text(*key)?, elements: pickle.int(*elements)?, dtype, size, part };
        (pickle.text(*kind)? == "storage").then_some(id)
    }

    /// Returns the length in bytes, as described and not yet checked.
    pub fn length(&self) -> Option<u64> {
        self.elements.checked_mul(self.size)
    }
}

/// Returns the element type of a class of storages and its size in bytes.
fn element(class: &str) -> Option<(&'static str, u64)> {
    Some(match class {
        "DoubleStorage" => ("float64", 8),
        "FloatStorage" => ("float32", 4),
        "HalfStorage" => ("float16", 2),
        "BFloat16Storage" => ("bfloat16", 2),
        "LongStorage" => ("int64", 8),
        "IntStorage" => ("int32", 4),
        "ShortStorage" => ("int16", 2),
        "CharStorage" => ("int8", 1),
        "ByteStorage" | "UntypedStorage" => ("uint8", 1),
        "BoolStorage" => ("bool", 1),
        "ComplexDoubleStorage" => ("complex128", 16),
        "ComplexFloatStorage" => ("complex64", 8),
        "QInt8Storage" => ("qint8", 1),
        "QUInt8Storage" => ("quint8", 1),
        "QInt32Storage" => ("qint32", 4),
        "QUInt4x2Storage" => ("quint4x2", 1),
        "QUInt2x4Storage" => ("quint2x4", 1),
        _ => return None,
    })
}

/// Description of a tensor in a pickle, not yet checked.
struct Description<'p> {
    storage: StorageId<'p>,
    dtype: &'p str,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// Returns the tensor that a value describes. Returns nothing for other values, and an error for an
/// invalid tensor.
fn describe<'p>(pickle: &'p Pickle<'_>, mut value: Handle) -> Option<Result<Description<'p>, &'static str>> {
    /// PyTorch writes at most a parameter around a subclass around a tensor.
    const WRAPPINGS: usize = 4;
    for _ in 0..WRAPPINGS {
        let Value::Object { class, args, .. } = pickle.get(value) else { return None };
        let (mut class, mut args) = (pickle.global(*class)?, pickle.items(*args)?);
        if let ("torch._tensor" | "torch.tensor", "_rebuild_from_type_v2") = class {
            let [function, _, arguments, ..] = args else { return None };
            (class, args) = (pickle.global(*function)?, pickle.items(*arguments)?);
        }
        match class {
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => value = *args.first()?,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => return rebuild(pickle, args, None, args.get(6)),
            ("torch._utils", "_rebuild_tensor_v3") => return rebuild(pickle, args, Some(*args.get(6)?), args.get(7)),
            _ => return None,
        }
    }
    None
}

/// Parses the arguments of a function that rebuilds a tensor.
fn rebuild<'p>(
    pickle: &'p Pickle<'_>,
    args: &[Handle],
    dtype: Option<Handle>,
    metadata: Option<&Handle>,
) -> Option<Result<Description<'p>, &'static str>> {
    let [storage, offset, shape, strides, ..] = args else { return Some(Err("has an incomplete description")) };
    // Metadata request that the elements are negated or conjugated, which no weights need.
    if let Some(Value::Dict(entries)) = metadata.map(|m| pickle.get(*m))
        && !entries.is_empty()
    {
        return None;
    }
    let Some(storage) = StorageId::of(pickle, pickle.get(*storage)) else { return Some(Err("has an invalid storage")) };
    let dtype = match dtype.map(|dtype| pickle.global(dtype)) {
        Some(Some(("torch", name))) => name,
        Some(_) => return Some(Err("has an invalid element type")),
        None => storage.dtype,
    };
    let sizes = |list: Handle| -> Option<Vec<usize>> {
        let items = pickle.items(list).filter(|items| items.len() <= 64)?;
        items.iter().map(|item| pickle.int(*item)).collect()
    };
    Some(match (pickle.int(*offset), sizes(*shape), sizes(*strides)) {
        (Some(offset), Some(shape), Some(strides)) => Ok(Description { storage, dtype, offset, shape, strides }),
        _ => Err("has invalid sizes"),
    })
}

/// Names everything that the pickle's top value contains. `place` locates a storage in the file.
pub(super) fn collect<'p>(
    pickle: &'p Pickle<'_>,
    place: &'p mut dyn FnMut(&StorageId<'_>) -> Result<Storage, ReadError>,
) -> Result<ParsedFile, ReadError> {
    let allowance = (1 << 20) + 16 * pickle.length;
    let mut walk = Walk { pickle, place, parsed: ParsedFile::default(), path: Vec::new(), object: None, visits: 0, allowance };
    walk.visit(pickle.top, &mut String::new(), None)?;
    match walk.object {
        Some(class) if walk.parsed.tensors.is_empty() => Err(ReadError::Unsupported(format!(
            "contains a pickled object of class {class}, which is not built, and no other tensors; load it in PyTorch and save only its tensors: \
             torch.save(model.state_dict(), ...)"
        ))),
        _ => Ok(walk.parsed),
    }
}

/// Memory of an entry in addition to its texts, in bytes.
const ENTRY: usize = 64;

/// Walk over the values of a pickle.
struct Walk<'p, 'a> {
    pickle: &'p Pickle<'a>,
    place: &'p mut dyn FnMut(&StorageId<'_>) -> Result<Storage, ReadError>,
    parsed: ParsedFile,
    /// Containers around the current value.
    path: Vec<Handle>,
    /// Class of a skipped object; an object that contains tensors takes precedence.
    object: Option<String>,
    visits: usize,
    /// Bytes that names, texts and visits may still take. A value has a name for each place that
    /// refers to it, so their number is not bounded by the pickle's size.
    allowance: usize,
}

impl<'p> Walk<'p, '_> {
    /// Collects a value and its contents under a name. Within an object, whose class is `inside`,
    /// it collects only texts.
    fn visit(&mut self, handle: Handle, name: &mut String, inside: Option<&str>) -> Result<(), ReadError> {
        const MOST_VISITS: usize = 4_000_000;
        /// Cost of a visit, which bounds the visits of a small pickle.
        const VISIT: usize = 4;
        self.visits += 1;
        if self.visits > MOST_VISITS {
            return Err(too_many_references());
        }
        self.spend(VISIT)?;
        let pickle = self.pickle;
        match pickle.get(handle) {
            Value::None => {}
            Value::Text(text) => self.keep(name, text)?,
            Value::Bool(value) => self.keep(name, if *value { "True" } else { "False" })?,
            Value::Int(value) => self.keep(name, &value.to_string())?,
            Value::Float(value) => self.keep(name, &format!("{value:?}"))?,
            Value::Dict(entries) => {
                if self.enter(handle)? {
                    for (key, value) in entries {
                        match pickle.get(*key) {
                            Value::Text(key) => self.visit_under(key, *value, name, inside)?,
                            Value::Int(key) => self.visit_under(&key.to_string(), *value, name, inside)?,
                            _ => self.leave_out("entries of dicts whose keys are not names")?,
                        }
                    }
                    self.path.pop();
                }
            }
            Value::Tuple(items) | Value::List(items) => {
                if self.enter(handle)? {
                    for (i, item) in items.iter().enumerate() {
                        self.visit_under(&i.to_string(), *item, name, inside)?;
                    }
                    self.path.pop();
                }
            }
            Value::Object { class, state, .. } => match describe(pickle, handle) {
                Some(tensor) if inside.is_none() => self.keep_tensor(name, tensor)?,
                Some(_) => {
                    self.object = inside.map(str::to_string);
                    self.leave_out("torch.Tensor")?;
                }
                None => {
                    let class = self.class_name(*class);
                    self.object.get_or_insert_with(|| class.clone());
                    self.leave_out(&class)?;
                    if let Value::Dict(_) = pickle.get(*state) {
                        self.visit(*state, name, Some(inside.unwrap_or(&class)))?;
                    }
                }
            },
            Value::Global { .. } => self.leave_out(&self.class_name(handle))?,
            Value::Persistent(_) => self.leave_out("torch.storage")?,
            Value::Other(class) => self.leave_out(class)?,
        }
        Ok(())
    }

    fn visit_under(&mut self, key: &str, value: Handle, name: &mut String, inside: Option<&str>) -> Result<(), ReadError> {
        const LONGEST_KEY: usize = 512;
        if key.len() > LONGEST_KEY {
            return self.leave_out("entries of dicts whose keys are not names");
        }
        let length = name.len();
        if self.path.len() > 1 {
            name.push('/');
        }
        name.push_str(key);
        let visited = self.visit(value, name, inside);
        name.truncate(length);
        visited
    }

    /// Returns whether to visit the items of a container. The caller must then pop it from the
    /// path.
    fn enter(&mut self, container: Handle) -> Result<bool, ReadError> {
        const DEEPEST: usize = 16;
        if self.path.contains(&container) {
            self.leave_out("containers that contain themselves")?;
        } else if self.path.len() == DEEPEST {
            self.leave_out("containers that are nested too deeply")?;
        } else {
            self.path.push(container);
            return Ok(true);
        }
        Ok(false)
    }

    /// Collects a text.
    fn keep(&mut self, name: &str, text: &str) -> Result<(), ReadError> {
        if self.path.is_empty() {
            return Ok(()); // a file that contains a single text has no tensors
        }
        self.spend(ENTRY + name.len() + text.len())?;
        self.parsed.texts.insert(name.to_string(), text.to_string());
        Ok(())
    }

    /// Collects a tensor.
    fn keep_tensor(&mut self, name: &str, tensor: Result<Description<'p>, &'static str>) -> Result<(), ReadError> {
        let name = if self.path.is_empty() { "tensor" } else { name };
        let wrong = |why: &str| ReadError::Damaged(format!("tensor {} {why}", printable(name)));
        let Description { storage, dtype, offset, shape, strides } = tensor.map_err(wrong)?;
        let dtype = match dtype {
            "float64" => Dtype::F64,
            "float32" => Dtype::F32,
            "float16" => Dtype::F16,
            "bfloat16" => Dtype::BF16,
            other => return self.leave_out(&printable(other)),
        };
        self.spend(ENTRY + name.len() + 16 * shape.len())?;
        let array = Array::new(dtype, shape, strides, (self.place)(&storage)?, offset).map_err(wrong)?;
        if self.parsed.tensors.insert(name.to_string(), array).is_some() {
            return Err(ReadError::Unsupported(format!("has two tensors named {}; save it again under different names", printable(name))));
        }
        Ok(())
    }

    /// Counts a skipped value.
    fn leave_out(&mut self, what: &str) -> Result<(), ReadError> {
        if let Some(count) = self.parsed.left_out.get_mut(what) {
            *count += 1;
            return Ok(());
        }
        self.spend(ENTRY + what.len())?;
        self.parsed.left_out.insert(what.to_string(), 1);
        Ok(())
    }

    /// Takes bytes from the allowance.
    fn spend(&mut self, bytes: usize) -> Result<(), ReadError> {
        self.allowance = self.allowance.checked_sub(bytes).ok_or_else(too_many_references)?;
        Ok(())
    }

    fn class_name(&self, class: Handle) -> String {
        self.pickle.global(class).map_or(String::new(), |(module, name)| format!("{}.{}", printable(module), printable(name)))
    }
}

fn too_many_references() -> ReadError {
    ReadError::damaged("its containers refer to one another more often than those of weights do")
}
