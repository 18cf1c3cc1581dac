"""The page's style sheet: one column, two of figures where there is room, tables that become cards on a phone."""

CSS = """
:root { --ink: #1f2328; --soft: #57606a; --paper: #ffffff; --line: #d8dee4; --tint: #f3f6fa; --ours: #0b62c4;
  --other: #c2410c; --rest: #9aa4b0; --good: #dff0e3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b0; --paper: #14171b; --line: #343a42;
  --tint: #1d2228; --ours: #6fb1ff; --other: #ff9a5c; --rest: #616b77; --good: #1d3a28; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 8px 0 16px; }
h2 { font-size: 1.15rem; margin: 36px 0 8px; padding-top: 12px; border-top: 1px solid var(--line); }
p, li { max-width: 76ch; overflow-wrap: anywhere; }
code { font-size: .9em; background: var(--tint); padding: 0 .25em; border-radius: 3px; overflow-wrap: anywhere; }
.lead { background: var(--tint); border-left: 4px solid var(--ours); padding: 8px 16px; border-radius: 0 6px 6px 0; }
.lead p { font-size: 1.15rem; font-weight: 600; margin: 4px 0; }
.lead ul, ul { padding-left: 1.2em; margin: 8px 0; }
table { border-collapse: collapse; width: 100%; margin: 12px 0; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 8px; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; }
td:first-child { font-weight: 600; }
tr.strong td { background: var(--good); }
dl { display: grid; grid-template-columns: minmax(140px, 22%) 1fr; gap: 4px 16px; margin: 12px 0; font-size: .92rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: 12px 0; }
summary { cursor: pointer; color: var(--ours); padding: 6px 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 16px; margin: 12px 0; }
figure { margin: 0; min-width: 0; max-width: 620px; }
figcaption { color: var(--soft); font-size: .82rem; line-height: 1.35; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 10px system-ui, sans-serif; fill: var(--soft); }
svg text.label { fill: var(--ink); }
svg text.note { font-size: 9px; }
svg .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.grid { stroke: var(--line); stroke-width: .6; }
.axis { stroke: var(--soft); stroke-width: .8; }
.line, .thread { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.thread { stroke-width: .6; opacity: .55; }
.dots { fill: none; stroke-width: 3.2; stroke-linecap: round; }
.line.ours, .thread.ours, .dots.ours { stroke: var(--ours); }
.line.other { stroke: var(--other); stroke-dasharray: 5 3; }
.line.cash { stroke: var(--ink); stroke-dasharray: 1 3; }
.line.faint, .thread.rest { stroke: var(--rest); stroke-width: .6; }
.dots.rest { stroke: var(--rest); }
.dots.mark { stroke: var(--other); stroke-width: 7; }
.bar.ours { fill: var(--ours); }
.bar.rest { fill: var(--rest); }
.bar.other { fill: var(--other); }
.band.ours { fill: var(--ours); opacity: .14; }
.level { stroke: var(--other); stroke-width: .8; stroke-dasharray: 3 3; }
.chance { stroke: var(--other); stroke-width: 2; }
@media (max-width: 600px) {
  dl { display: block; }
  dd { margin: 0 0 8px; }
}
@media (max-width: 900px) {
  table, tbody, tr, td { display: block; width: 100%; }
  thead { display: none; }
  tr { border: 1px solid var(--line); border-radius: 6px; margin: 0 0 10px; padding: 4px 0; }
  tr.strong { background: var(--good); }
  td { display: flex; overflow-wrap: anywhere; justify-content: space-between; gap: 12px; border: 0; padding: 3px 10px;
    text-align: right; }
  td::before { content: attr(data-name); color: var(--soft); font-weight: 400; text-align: left; flex: 0 1 45%; }
  td:first-child { text-align: left; font-size: .95rem; }
  td:first-child::before { content: none; }
}
"""
