(function () {
  "use strict";
  var root = document.documentElement;
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  // Buttons are named one by one: plotly's own choice holds some that send data away.
  var config = {responsive: true, displaylogo: false,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]};

  function colour(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }

  // Colours come from the page's style sheet, so that plots follow the reader's light or dark setting.
  function dress(layout) {
    var line = colour("--line"), grid = colour("--grid");
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = {color: colour("--ink"), size: 13, family: "system-ui, -apple-system, 'Segoe UI', sans-serif"};
    layout.modebar = {bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent")};
    layout.hoverlabel = {bgcolor: colour("--card"), bordercolor: line, font: {color: colour("--ink")}, namelength: 40};
    Object.keys(layout).filter(function (key) { return /^[xy]axis\d*$/.test(key); }).forEach(function (key) {
      var axis = layout[key];
      axis.gridcolor = grid; axis.zerolinecolor = grid; axis.linecolor = line; axis.showline = true;
    });
    return layout;
  }

  // An array that several curves share stands in the page once; the others say where.
  function unfold(views) {
    views.forEach(function (view) {
      view.data.forEach(function (trace) {
        Object.keys(trace).forEach(function (key) {
          var first = trace[key] && trace[key].same;
          if (first) { trace[key] = views[first[0]].data[first[1]][first[2]]; }
        });
      });
    });
    return views;
  }

  // Points drawn of each trace that answers to the pointer (cells of a heat map), for whoever checks the page.
  function points(canvas) {
    return canvas._fullData.map(function (trace, i) {
      if (trace.type === "heatmap") { return trace.z.reduce(function (sum, row) { return sum + row.length; }, 0); }
      return trace.hoverinfo === "skip" ? -1 : canvas.calcdata[i].length;
    }).filter(function (count) { return count >= 0; });
  }

  // While a run goes on the page loads again and again: what the reader chose must survive that.
  var live = JSON.parse(document.getElementById("live").textContent);
  var memory = "fedmac " + location.pathname;

  function remember() {
    var kept = {scroll: window.scrollY, views: {}, open: []};
    document.querySelectorAll(".choice input:checked").forEach(function (input) {
      kept.views[input.name] = input.parentNode.textContent;
    });
    document.querySelectorAll("details").forEach(function (details, i) { if (details.open) { kept.open.push(i); } });
    try { sessionStorage.setItem(memory, JSON.stringify(kept)); } catch (error) { /* storage is switched off */ }
  }

  function recall() {
    var kept = null;
    try { kept = JSON.parse(sessionStorage.getItem(memory)); } catch (error) { /* storage is switched off */ }
    if (!kept) { return; }
    document.querySelectorAll(".choice input").forEach(function (input) {
      if (kept.views[input.name] === input.parentNode.textContent) { input.checked = true; }
    });
    document.querySelectorAll("details").forEach(function (details, i) { details.open = kept.open.indexOf(i) >= 0; });
    history.scrollRestoration = "manual";
    window.scrollTo(0, kept.scroll);
  }

  function poll() {
    fetch(live.path, {cache: "no-store"}).then(function (answer) { return answer.json(); }).then(function (now) {
      if (live.version === null) { live.version = now.version; }
      if (now.version !== live.version) { remember(); location.reload(); }
    }).catch(function () { /* the server has gone: the page stays as it is */ });
  }

  if (live.path) {
    recall();
    window.setInterval(poll, 2000);
  }

  document.querySelectorAll("figure.plot").forEach(function (figure) {
    var canvas = figure.querySelector(".canvas");
    var views = unfold(JSON.parse(figure.querySelector("script").textContent));
    var chosen = figure.querySelector(".choice input:checked");
    var current = chosen ? Number(chosen.value) : 0;
    function draw() {
      var view = JSON.parse(JSON.stringify(views[current]));
      Plotly.react(canvas, view.data, dress(view.layout), config).then(function () {
        figure.dataset.view = current;
        figure.dataset.points = points(canvas).join(" ");
      });
    }
    figure.addEventListener("change", function (event) { current = Number(event.target.value); draw(); });
    dark.addEventListener("change", draw);
    draw();
  });
}());
