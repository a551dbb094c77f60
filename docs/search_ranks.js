// What the built documentation's own search finds first: node docs/search_ranks.js FOLDER QUERY...
"use strict";

const fs = require("fs");
const path = require("path");
const vm = require("vm");

const [folder, ...queries] = process.argv.slice(2);
const element = () => ({ appendChild: (child) => child, classList: { add() {} }, lastChild: null });
const context = {
  console,
  DOCUMENTATION_OPTIONS: { BUILDER: "html", FILE_SUFFIX: ".html", LINK_SUFFIX: ".html" },
  document: {
    addEventListener() {},
    createElement: element,
    documentElement: { dataset: {} },
    getElementById: element,
    querySelector: element,
    readyState: "loading",
  },
  localStorage: { setItem() {} },
  SPHINX_HIGHLIGHT_ENABLED: false,
  URLSearchParams,
  addEventListener() {},
  location: { search: "" },
  _: (text) => text,
  _ready() {},
};
context.window = context;
vm.createContext(context);
const scripts = ["language_data", "searchtools"];
for (const name of [...scripts.map((each) => `_static/${each}.js`), "searchindex.js"]) {
  vm.runInContext(fs.readFileSync(path.join(folder, name), "utf8"), context, { filename: name });
}
const found = {};
for (const query of queries) {
  context.query = query;
  const results = vm.runInContext("Search._performSearch(...Search._parseQuery(query))", context);
  // sorted for being popped: the best comes last
  found[query] = results.reverse().slice(0, 5).map((each) => each[0]);
}
process.stdout.write(JSON.stringify(found));
