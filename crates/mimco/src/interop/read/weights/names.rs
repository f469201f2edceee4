//! From what a pickle of PyTorch describes to tensors with names. This is where a few names of classes and functions get a meaning; all others
//! are counted and left out.

use super::array::Array;
use super::array::Storage;
use super::dtype::Dtype;
use super::fault::Fault;
use super::parsed::ParsedFile;
use super::pickle::{Handle, Pickle, Value};
use crate::interop::read::escape::printable;

/// What a pickle says of a storage; where its bytes are is the format's to know.
pub(super) struct StorageId<'p> {
    pub key: &'p str,
    /// Elements, by the file's word.
    pub elements: u64,
    /// PyTorch's name of their type, and their bytes.
    pub dtype: &'static str,
    pub size: u64,
    /// The part of it that is meant, in elements: from, how many.
    pub part: Option<(u64, u64)>,
}

impl<'p> StorageId<'p> {
    /// Takes a storage's name apart: `("storage", class, key, device, elements)`, in the old format with a part behind.
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

    /// Its bytes, by the file's word.
    pub fn length(&self) -> Option<u64> {
        self.elements.checked_mul(self.size)
    }
}

/// The elements of PyTorch's classes of storages.
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

/// A tensor as the pickle describes it, nothing of it checked.
struct Description<'p> {
    storage: StorageId<'p>,
    dtype: &'p str,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// The tensor that a value stands for: None where it stands for something else, an error where it is none that can be.
fn describe<'p>(pickle: &'p Pickle<'_>, mut value: Handle) -> Option<Result<Description<'p>, &'static str>> {
    /// A parameter around a subclass around a tensor is the most that PyTorch writes.
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

fn rebuild<'p>(
    pickle: &'p Pickle<'_>,
    args: &[Handle],
    dtype: Option<Handle>,
    metadata: Option<&Handle>,
) -> Option<Result<Description<'p>, &'static str>> {
    let [storage, offset, shape, strides, ..] = args else { return Some(Err("is described by too little")) };
    // Metadata says that the elements are to be negated or conjugated, which no weights need.
    if let Some(Value::Dict(entries)) = metadata.map(|m| pickle.get(*m))
        && !entries.is_empty()
    {
        return None;
    }
    let Some(storage) = StorageId::of(pickle, pickle.get(*storage)) else { return Some(Err("lies in a storage that is none")) };
    let dtype = match dtype.map(|dtype| pickle.global(dtype)) {
        Some(Some(("torch", name))) => name,
        Some(_) => return Some(Err("is of a type that is none")),
        None => storage.dtype,
    };
    let sizes = |list: Handle| -> Option<Vec<usize>> {
        let items = pickle.items(list).filter(|items| items.len() <= 64)?;
        items.iter().map(|item| pickle.int(*item)).collect()
    };
    Some(match (pickle.int(*offset), sizes(*shape), sizes(*strides)) {
        (Some(offset), Some(shape), Some(strides)) => Ok(Description { storage, dtype, offset, shape, strides }),
        _ => Err("has sizes that are none"),
    })
}

/// Gives names to all that hangs on the pickle's top value; `place` finds a storage in the file.
pub(super) fn collect<'p>(
    pickle: &'p Pickle<'_>,
    place: &'p mut dyn FnMut(&StorageId<'_>) -> Result<Storage, Fault>,
) -> Result<ParsedFile, Fault> {
    let allowance = (1 << 20) + 16 * pickle.length;
    let mut walk = Walk { pickle, place, found: ParsedFile::default(), path: Vec::new(), object: None, visits: 0, allowance };
    walk.visit(pickle.top, &mut String::new(), None)?;
    match walk.object {
        Some(class) if walk.found.tensors.is_empty() => Err(Fault::Refused(format!(
            "holds a pickled object of class {class}, which is not built, and no tensors beside it; load it in PyTorch and save its tensors alone: \
             torch.save(model.state_dict(), ...)"
        ))),
        _ => Ok(walk.found),
    }
}

/// What an entry takes beside its texts.
const ENTRY: usize = 64;

struct Walk<'p, 'a> {
    pickle: &'p Pickle<'a>,
    place: &'p mut dyn FnMut(&StorageId<'_>) -> Result<Storage, Fault>,
    found: ParsedFile,
    /// The containers around the value at hand.
    path: Vec<Handle>,
    /// The class of an object that was left out, of one with tensors in it before others.
    object: Option<String>,
    visits: usize,
    /// Bytes that names and texts may still take, and a little for each visit: values that are referred to from many places have a name for each.
    allowance: usize,
}

impl<'p> Walk<'p, '_> {
    /// Takes a value under a name, and what is in it; inside an object, whose class is given then, texts alone.
    fn visit(&mut self, handle: Handle, name: &mut String, inside: Option<&str>) -> Result<(), Fault> {
        const MOST_VISITS: usize = 4_000_000;
        /// So that a small pickle ends sooner.
        const VISIT: usize = 4;
        self.visits += 1;
        if self.visits > MOST_VISITS {
            return Err(too_entangled());
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
                            _ => self.leave_out("entries of dicts whose keys are no names")?,
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

    fn visit_under(&mut self, key: &str, value: Handle, name: &mut String, inside: Option<&str>) -> Result<(), Fault> {
        const LONGEST_KEY: usize = 512;
        if key.len() > LONGEST_KEY {
            return self.leave_out("entries of dicts whose keys are no names");
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

    /// Whether a container is to be looked into; whoever is told so must leave it.
    fn enter(&mut self, container: Handle) -> Result<bool, Fault> {
        const DEEPEST: usize = 16;
        if self.path.contains(&container) {
            self.leave_out("containers that hold themselves")?;
        } else if self.path.len() == DEEPEST {
            self.leave_out("containers in too many others")?;
        } else {
            self.path.push(container);
            return Ok(true);
        }
        Ok(false)
    }

    fn keep(&mut self, name: &str, text: &str) -> Result<(), Fault> {
        if self.path.is_empty() {
            return Ok(()); // a file of one text has no tensor that it could stand beside
        }
        self.spend(ENTRY + name.len() + text.len())?;
        self.found.texts.insert(name.to_string(), text.to_string());
        Ok(())
    }

    fn keep_tensor(&mut self, name: &str, tensor: Result<Description<'p>, &'static str>) -> Result<(), Fault> {
        let name = if self.path.is_empty() { "tensor" } else { name };
        let wrong = |why: &str| Fault::Damaged(format!("tensor {} {why}", printable(name)));
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
        if self.found.tensors.insert(name.to_string(), array).is_some() {
            return Err(Fault::Refused(format!("has two tensors named {}; save it again under different names", printable(name))));
        }
        Ok(())
    }

    fn leave_out(&mut self, what: &str) -> Result<(), Fault> {
        if let Some(count) = self.found.left_out.get_mut(what) {
            *count += 1;
            return Ok(());
        }
        self.spend(ENTRY + what.len())?;
        self.found.left_out.insert(what.to_string(), 1);
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.allowance = self.allowance.checked_sub(bytes).ok_or_else(too_entangled)?;
        Ok(())
    }

    fn class_name(&self, class: Handle) -> String {
        self.pickle.global(class).map_or(String::new(), |(module, name)| format!("{}.{}", printable(module), printable(name)))
    }
}

fn too_entangled() -> Fault {
    Fault::damaged("its containers refer to one another more often than those of weights")
}
