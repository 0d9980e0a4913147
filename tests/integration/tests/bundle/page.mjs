// Runs the script of the product page, as it comes from the edge, with as little of a browser as it needs: an element
// is what was last put into it. Prints what each shows when all has been asked for.
//
//     node page.mjs http://127.0.0.1:10000
import vm from "node:vm";

const [edge] = process.argv.slice(2);
const page = await (await fetch(`${edge}/page`, {headers: {accept: "text/html"}})).text();

const elements = {};
for (const [, id, textContent] of page.matchAll(/<\w+[^>]* id="([^"]+)">([^<]*)</g)) {
  elements[id] = {textContent};
}
const [, script] = page.match(/<script>(.*?)<\/script>/s);
vm.runInNewContext(script, {
  AbortSignal,
  document: {getElementById: (id) => elements[id]},
  fetch: (path, options) => fetch(edge + path, options),
});

// When nothing is left to wait for.
process.on("beforeExit", () => {
  const shown = Object.entries(elements).map(([id, {innerHTML, textContent}]) => [id, innerHTML ?? textContent]);
  console.log(JSON.stringify(Object.fromEntries(shown)));
});
