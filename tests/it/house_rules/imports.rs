//! The directions of imports, and that no two files import each other.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Attribute, Item, ItemUse, Path, UseTree, Visibility,
    visit::{self, Visit},
};

use super::sources;

/// The modules of the library, from the top to the bottom. A module may import modules of lower
/// lines only.
const LAYERS: [&[&str]; 9] = [
    &["app"],
    &["config", "supervisor", "systemd"],
    &["http", "tasks"],
    &["rooms"],
    &["cache"],
    &["auth", "relay", "traces"],
    &["clock"],
    &["bus", "health", "nextcloud", "store"],
    &["backoff", "domain", "failpoints", "logging", "metrics"],
];

/// Imports that the layers allow and that would still bypass a module.
const FORBIDDEN: [(&str, &str); 3] = [("http", "store"), ("http", "bus"), ("rooms", "bus")];

#[test]
fn modules_import_only_lower_layers() {
    let layer = |module: &str| {
        let number = LAYERS.iter().position(|layer| layer.contains(&module));
        number.unwrap_or_else(|| panic!("add the module {module} to the layers"))
    };
    for (file, targets) in imports() {
        let module = top(&file);
        for target in targets.iter().map(|target| top(target)).filter(|target| *target != module) {
            assert!(
                layer(module) < layer(target),
                "{file} imports {target}, which is not below it"
            );
            assert!(!FORBIDDEN.contains(&(module, target)), "{file} imports {target}");
        }
    }
}

#[test]
fn no_files_import_each_other() {
    let mut imports = imports();
    // A file that imports none of the others, or that none of them imports, is in no circle. Without
    // such files, again and again, only circles and what connects them are left.
    loop {
        let before = imports.len();
        let files: BTreeSet<String> = imports.keys().cloned().collect();
        for targets in imports.values_mut() {
            targets.retain(|target| files.contains(target));
        }
        let imported: BTreeSet<String> = imports.values().flatten().cloned().collect();
        imports.retain(|file, targets| !targets.is_empty() && imported.contains(file));
        if imports.len() == before {
            break;
        }
    }
    assert!(imports.is_empty(), "circular imports among {imports:#?}");
}

/// The modules that each file of the library imports, by their paths. An import by way of a
/// re-export counts as one of the file that defines the item. A module may always use its own
/// submodules.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let files: BTreeMap<String, Imports> = sources()
        .into_iter()
        .filter(|(name, _text)| name != "main.rs" && !name.starts_with("cli/"))
        .map(|(name, text)| {
            let module = name.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
            let module = if module == "lib" { String::new() } else { module };
            let mut imports = Imports { module: module.clone(), ..Imports::default() };
            imports.visit_file(&syn::parse_file(&text).unwrap());
            (module, imports)
        })
        .collect();
    let resolve = |path: &str| {
        let mut path = path.to_owned();
        loop {
            let is_module = |end: &usize| files.contains_key(&path[..*end]);
            let ends = path.rmatch_indices("::").map(|(end, _)| end);
            let end = [path.len()].into_iter().chain(ends).find(is_module)?;
            let exported = path.get(end + 2..).unwrap_or_default();
            let name = exported.split("::").next().unwrap_or_default();
            match files[&path[..end]].exports.get(name) {
                Some(origin) if *origin != path => path.clone_from(origin),
                _ => return Some(path[..end].to_owned()),
            }
        }
    };
    let targets = |imports: &Imports| {
        let targets = imports.paths.iter().filter_map(|path| resolve(path));
        let own = format!("{}::", imports.module);
        targets.filter(|path| *path != imports.module && !path.starts_with(&own)).collect()
    };
    files.iter().map(|(module, imports)| (module.clone(), targets(imports))).collect()
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// What one file imports and re-exports, as paths from the root of the crate.
#[derive(Default)]
struct Imports {
    module: String,
    paths: BTreeSet<String>,
    /// Origins of re-exported items, by their names.
    exports: BTreeMap<String, String>,
}

impl Imports {
    /// The path from the root of the crate. One that begins with a name is taken for the path of a
    /// submodule; that of another crate then leads to no other module.
    fn absolute(&self, path: &str) -> Option<String> {
        let parent = |module: &str| {
            module.rsplit_once("::").map(|(parent, _)| parent.to_owned()).unwrap_or_default()
        };
        let join = |module: &str, rest: &str| match module {
            "" => rest.to_owned(),
            module => format!("{module}::{rest}"),
        };
        let (first, mut rest) = path.split_once("::")?;
        match first {
            "crate" => Some(rest.to_owned()),
            "self" => Some(join(&self.module, rest)),
            "super" => {
                let mut module = parent(&self.module);
                while let Some(further) = rest.strip_prefix("super::") {
                    (module, rest) = (parent(&module), further);
                }
                Some(join(&module, rest))
            }
            _ => Some(join(&self.module, path)),
        }
    }

    fn add(&mut self, prefix: &str, tree: &UseTree, is_export: bool) {
        let mut add = |path: String, name: String| {
            if let Some(path) = self.absolute(&path) {
                if is_export {
                    self.exports.insert(name, path);
                } else {
                    self.paths.insert(path);
                }
            }
        };
        match tree {
            UseTree::Path(path) => {
                self.add(&format!("{prefix}{}::", path.ident), &path.tree, is_export);
            }
            UseTree::Name(name) => add(format!("{prefix}{}", name.ident), name.ident.to_string()),
            UseTree::Rename(name) => {
                add(format!("{prefix}{}", name.ident), name.rename.to_string());
            }
            UseTree::Glob(_) => add(prefix.to_owned(), String::new()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add(prefix, tree, is_export);
                }
            }
        }
    }
}

impl Visit<'_> for Imports {
    fn visit_item(&mut self, item: &Item) {
        let attributes: &[Attribute] = if let Item::Mod(module) = item {
            &module.attrs
        } else if let Item::Impl(block) = item {
            &block.attrs
        } else {
            &[]
        };
        let is_test = attributes.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<Path>().is_ok_and(|condition| condition.is_ident("test"))
        });
        if !is_test {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        let is_export = !matches!(item.vis, Visibility::Inherited);
        self.add("", &item.tree, is_export);
    }

    fn visit_path(&mut self, path: &Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.paths.extend(self.absolute(&segments.join("::")));
        visit::visit_path(self, path);
    }
}
