/* One run. */
'use strict';
(() => {
  const pages = fleetPages;
  const page = document.getElementById('run-page');
  const address = `${page.dataset.api}/${encodeURIComponent(page.dataset.run)}`;
  const byId = id => document.getElementById(id);
  const FINAL = new Set(['succeeded', 'failed', 'cancelled', 'unreadable']);

  const item = ['Item', row => row.host ? `${row.item} on ${row.host}` : row.item];
  const outcomeColumns = [
    ['At', row => pages.moment(row.at)],
    item,
    ['State', row => pages.badge(row.state)],
    ['Took', row => pages.duration(row.seconds), 'end'],
    ['Sent', row => pages.bytes(row.bytes), 'end'],
    ['Attempts', row => pages.number(row.attempts), 'end'],
  ];

  function reason(row) { return row.error ? `${row.error.type}: ${row.error.message}` : ''; }

  function showFacts(run) {
    const facts = [
      ['Operation', run.operation], ['Source', run.source], ['Destination', run.destination], ['Project', run.project],
      ['Started', pages.moment(run.created_at)],
      [run.finished_at ? 'Took' : 'For', pages.duration(run.seconds)],
      ['Left', run.seconds_left === null ? '' : `about ${pages.duration(run.seconds_left)}`],
      ['Items', pages.STATES.map(state => `${pages.number(run[state])} ${state}`).join(', ')],
      ['Queued', run.finished_at ? '' : `${pages.number(run.published)} published, ${pages.number(run.waiting)} waiting`],
      ['Sent', pages.bytes(run.bytes)], ['Parallel', pages.number(run.parallel)], ['Key', run.key],
      ['Written by', run.version],
    ];
    const list = byId('facts');
    list.replaceChildren();
    for (const [name, value] of facts) {
      if (value) list.append(pages.element('dt', name), pages.element('dd', value));
    }
    for (const [name, other] of [['Continues', run.parent], ['Then comes', run.next]]) {
      if (!other) continue;
      const value = pages.element('dd');
      value.append(pages.link(`${page.dataset.page}/${encodeURIComponent(other)}`, other));
      list.append(pages.element('dt', name), value);
    }
  }

  function showTimeLine(figures) {
    const target = byId('time-line');
    if (!figures.bars) { target.replaceChildren(pages.element('p', 'No item has ended yet.')); return; }
    const lines = pages.STATES.map(state => figures.time_line[state] || []);
    const places = Array.from({ length: figures.bars }, (_, place) => place);
    const highest = Math.max(...places.map(place => lines.reduce((total, line) => total + (line[place] || 0), 0)));
    const space = 'http://www.w3.org/2000/svg', count = Math.max(figures.bars, 10);
    const drawing = document.createElementNS(space, 'svg');
    drawing.setAttribute('viewBox', `0 0 ${count} 100`);
    drawing.setAttribute('preserveAspectRatio', 'none');
    drawing.setAttribute('role', 'img');
    drawing.setAttribute('aria-label', 'Items that ended, over time');
    places.forEach(place => {
      let top = 100;
      pages.STATES.forEach((state, index) => {
        const height = 100 * (lines[index][place] || 0) / highest;
        if (!height) return;
        top -= height;
        const box = document.createElementNS(space, 'rect');
        box.setAttribute('class', `bar-${state}`);
        box.setAttribute('x', place + 0.05);
        box.setAttribute('width', 0.9);
        box.setAttribute('y', top);
        box.setAttribute('height', height);
        drawing.append(box);
      });
    });
    const until = figures.begins_at + figures.bars * figures.bar_seconds;
    target.replaceChildren(drawing, pages.element('p',
      `${pages.moment(figures.begins_at)} to ${pages.time(until)}; a bar is ${pages.duration(figures.bar_seconds)}, the highest stands for ${pages.number(highest)}`));
  }

  /* An item counts for the registry that its failure names, else for the one that is written to. */
  function showHosts(run, figures) {
    const written = run.registries.destination || run.registries.source;
    const rows = [
      ...figures.hosts.map(row => ({ role: 'host', ...row })),
      ...figures.registries.map(row => ({ role: row.name === written && run.destination ? 'written to' : 'read from', ...row })),
    ];
    pages.table(byId('hosts'), [
      ['Name', row => row.name], ['Role', row => row.role],
      ['Done', row => pages.number(row.succeeded + row.skipped), 'end'],
      ['Failed', row => pages.number(row.failed), 'end'],
      ['Sent', row => pages.bytes(row.bytes), 'end'],
      ['Each took', row => pages.duration(row.seconds / Math.max(1, row.succeeded + row.failed)), 'end'],
    ], rows, 'No item has ended yet.');
    if (figures.registries.length > 1) {
      byId('hosts').append(pages.element('p',
        'An item counts for the registry that its failure names, else for the one that is written to.', 'nothing'));
    }
  }

  function showActions(run) {
    const ended = FINAL.has(run.state), usable = {
      cancel: !ended && run.state !== 'cancelling',
      pause: run.state === 'running',
      resume: run.state === 'paused',
      retry: ended && (run.failed > 0 || run.cancelled > 0),
    };
    document.querySelectorAll('#actions [data-action]').forEach(button => {
      button.disabled = !usable[button.dataset.action] && !(button.dataset.now && run.state === 'cancelling');
    });
  }

  function show({ run, figures, claimed, advice }) {
    byId('state').replaceChildren(pages.badge(run.state));
    byId('subject').textContent = `${run.operation} ${pages.subject(run)}`;
    byId('run-error').classList.toggle('d-none', !run.error);
    byId('run-error').textContent = run.error ? reason(run) : '';
    pages.fillProgress(byId('progress'), run);
    byId('done').textContent = `${pages.number(run.done)} of ${pages.number(run.total)}`;
    byId('claimed').textContent = pages.number(run.claimed);
    byId('failed').textContent = pages.number(run.failed);
    byId('rate').textContent = pages.rate(run);
    byId('waits').replaceChildren(...run.waits.map(wait => pages.element('li', pages.wait(wait))));
    showFacts(run);
    showTimeLine(figures);
    byId('error-types').replaceChildren(...Object.entries(figures.error_types).map(
      ([name, count]) => pages.element('div', `${name} (${pages.number(count)}): ${advice[name] || ''}`)));
    pages.table(byId('failures'), [item, ['Reason', reason], ['Attempts', row => pages.number(row.attempts), 'end'],
      ['At', row => pages.moment(row.at)]], figures.failures, run.failed ? 'They are being read…' : 'None.');
    if (run.failed > figures.failures.length && figures.has_all) {
      byId('failures').append(pages.element('p',
        `and ${pages.number(run.failed - figures.failures.length)} more: stagefleet runs show ${run.run} --failed`, 'nothing'));
    }
    pages.table(byId('workers'), [['Worker', row => row.worker], item,
      ['Large layers', row => row.expected ? `${pages.bytes(row.moved)} of ${pages.bytes(row.expected)}` : '', 'end'],
      ['Has it until', row => pages.time(row.leased_until)]], claimed, 'No item is under way.');
    showHosts(run, figures);
    pages.table(byId('slowest'), [item, ['Took', row => pages.duration(row.seconds), 'end'],
      ['Sent', row => pages.bytes(row.bytes), 'end']], figures.slowest.slice(0, 10), 'No item has ended yet.');
    pages.table(byId('latest'), outcomeColumns, figures.latest, 'No item has ended yet.');
    showActions(run);
  }

  const step = pages.poll(async () => {
    const answer = await pages.request(`${address}/figures`);
    show(answer);
    if (!answer.figures.has_all) {
      byId('live-text').textContent = `Reading, ${pages.number(answer.figures.read)} outcomes`;
      return true;
    }
    return false;
  });

  document.querySelectorAll('#actions [data-action]').forEach(button => button.addEventListener('click', async () => {
    const action = button.dataset.action, told = byId('action-result');
    if (button.dataset.now && !window.confirm('Stop what runs, instead of finishing it?')) return;
    button.disabled = true;
    told.textContent = '';
    try {
      const run = await pages.post(`${address}/${action}`, button.dataset.now ? { now: true } : {});
      if (action === 'retry' && run.run !== page.dataset.run) {
        told.replaceChildren(document.createTextNode('Started: '),
          pages.link(`${page.dataset.page}/${encodeURIComponent(run.run)}`, `run ${run.run}`));
      }
    } catch (error) {
      told.textContent = error.message;
    }
    step();
  }));
})();
